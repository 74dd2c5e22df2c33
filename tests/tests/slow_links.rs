//! A link that is slow is not a link that is dead.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cryostore_engine::{Kind, Store, StoreOptions};

/// A server that takes one connection after the other; `serve` is given each, and the length of the body that is announced.
fn server(serve: impl Fn(&mut TcpStream, usize) + Send + 'static) -> Store {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let len = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            serve(&mut connection, len.map_or(0, |len| len.parse().unwrap()));
        }
    });
    let storage = "s3://bucket";
    let mut options = StoreOptions::for_storage(storage).unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    for (key, value) in [
        ("endpoint", endpoint.as_str()),
        ("allow_http", "true"),
        ("access_key_id", "a"),
        ("secret_access_key", "b"),
        ("timeout", "1s"),
        ("retries", "0"),
    ] {
        options.set(key, value).unwrap();
    }
    Store::open_with(storage, false, &options).unwrap()
}

const LEN: usize = 12 << 20;
const MOST: Duration = Duration::from_secs(60);

/// Larger than what the kernel keeps of a connection on both sides.
fn body() -> Vec<u8> {
    vec![7; LEN]
}

#[test]
fn an_upload_that_takes_longer_than_the_time_out_goes_on_as_long_as_bytes_move() {
    let store = server(|connection, len| {
        let mut piece = vec![0; len / 20];
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(150));
            connection.read_exact(&mut piece).unwrap();
        }
        connection.read_exact(&mut piece[..len % 20]).unwrap();
        connection
            .write_all(
                b"HTTP/1.1 200 OK\r\netag: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .unwrap();
    });
    let start = Instant::now();
    store.replace("packs/aa/1", body()).unwrap();
    assert!(
        start.elapsed() > Duration::from_secs(3),
        "the server was slow"
    );
}

#[test]
fn an_upload_that_nobody_takes_ends() {
    let store = server(|_, _| std::thread::sleep(MOST));
    let start = Instant::now();
    let e = store.replace("packs/aa/1", body()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable, "{e}");
    assert!(start.elapsed() < MOST / 2, "{:?}", start.elapsed());
}

#[test]
fn a_download_that_is_slow_goes_on_and_one_that_stalls_ends() {
    let answer = |connection: &mut TcpStream, pieces: usize| {
        let head = "HTTP/1.1 200 OK\r\nlast-modified: Fri, 20 Nov 2026 12:00:00 GMT\r\netag: x\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n";
        connection.write_all(head.as_bytes()).unwrap();
        for _ in 0..pieces {
            std::thread::sleep(Duration::from_millis(250));
            connection.write_all(&[7; 100]).unwrap();
        }
    };
    let slow = server(move |connection, _| answer(connection, 10));
    assert_eq!(slow.get("x", 2000).unwrap().len(), 1000);
    let stalls = server(move |connection, _| {
        answer(connection, 3);
        std::thread::sleep(MOST);
    });
    let start = Instant::now();
    let e = stalls.get("x", 2000).unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable, "{e}");
    assert!(start.elapsed() < MOST / 2, "{:?}", start.elapsed());
}
