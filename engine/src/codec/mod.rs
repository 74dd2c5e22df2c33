//! Owns one frame: chunks in, stored bytes out, and back.
//!
//! Always: a frame is decoded and compared before it is handed on. Never: mixes streams; knows where a frame goes.

pub mod frame;
