//! The image of this program, for `scripts/dist.sh`: `image DIR TAG CREATED LAYER.tar WORD…` writes an OCI layout with one layer whose containers run the
//! words.

#![expect(clippy::print_stdout, reason = "its result")]

use std::error::Error;
use std::fs::File;
use std::path::Path;

use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, tag, created, layer, run @ ..] = &words[..] else {
        return Err("usage: image DIR TAG CREATED LAYER.tar WORD…".into());
    };
    let run = json!({"Entrypoint": run, "Env": ["PATH=/usr/bin"]});
    let mut layer = File::open(layer)?;
    let digest =
        cryostore_operator::restore::write_image(Path::new(dir), tag, created, &mut layer, &run)?;
    println!("{digest}");
    Ok(())
}
