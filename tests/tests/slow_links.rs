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

/// A bucket at this address, with some options.
fn store_at(port: u16, more: &[(&str, &str)]) -> Store {
    let storage = "s3://bucket";
    let mut options = StoreOptions::for_storage(storage).unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    let of_all = [
        ("endpoint", endpoint.as_str()),
        ("allow_http", "true"),
        ("access_key_id", "a"),
        ("secret_access_key", "b"),
    ];
    for (key, value) in of_all.iter().chain(more) {
        options.set(key, value).unwrap();
    }
    Store::open_with(storage, false, &options).unwrap()
}

/// A server that takes one connection after the other; `serve` is given each, and the length of the body that is announced.
fn server(serve: impl Fn(&mut TcpStream, usize) + Send + 'static) -> Store {
    store_at(serving(serve), &[("timeout", "1s"), ("retries", "0")])
}

/// The port of such a server.
fn serving(serve: impl Fn(&mut TcpStream, usize) + Send + 'static) -> u16 {
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
    port
}

const LEN: usize = 12 << 20;
const MOST: Duration = Duration::from_secs(60);

/// Larger than what the kernel keeps of a connection on both sides.
fn body() -> Vec<u8> {
    vec![7; LEN]
}

#[test]
fn an_upload_that_takes_longer_than_all_patience_goes_on_as_long_as_bytes_move() {
    let port = serving(|connection, len| {
        let mut piece = vec![0; len / 20];
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(150));
            connection.read_exact(&mut piece).unwrap();
        }
        connection.read_exact(&mut piece[..len % 20]).unwrap();
        connection.write_all(ANSWER).unwrap();
    });
    let options = [("timeout", "1s"), ("patience", "2s"), ("retries", "0")];
    let store = store_at(port, &options);
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

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\netag: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[test]
fn a_store_that_does_not_answer_is_waited_for_once_however_much_is_asked_of_it() {
    // Connections are made, and nothing comes back.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = [("patience", "4s"), ("timeout", "1s"), ("retries", "100")];
    let store = store_at(silent.local_addr().unwrap().port(), &options);
    let start = Instant::now();
    let beside = {
        let store = store.clone();
        std::thread::spawn(move || {
            // It begins when the other has waited for a while, and ends with it.
            std::thread::sleep(Duration::from_secs(2));
            (store.list("packs").unwrap_err(), Instant::now())
        })
    };
    let e = store.replace("packs/aa/1", vec![7; 1000]).unwrap_err();
    let took = start.elapsed();
    assert_eq!(e.kind(), Kind::Unavailable);
    assert!(e.to_string().contains("no sign of life for 4 s"), "{e}");
    assert!(e.advice().unwrap().contains("127.0.0.1"));
    assert!((4..7).contains(&took.as_secs()), "{took:?}");
    let (_, ended) = beside.join().unwrap();
    assert!(ended - start < Duration::from_secs(7));
    // What would tidy up does not wait again: neither a removal, nor a create, which looks whether it was done.
    let start = Instant::now();
    store.delete("sessions/1").unwrap_err();
    store.create("sessions/1", vec![7; 10]).unwrap_err();
    store.get("snapshots/1", 10).unwrap_err();
    store.len("snapshots/1").unwrap_err();
    store.list("snapshots").unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_store_that_was_away_is_used_again_when_it_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = [("patience", "2s"), ("timeout", "1s")];
    let store = store_at(port, &options);
    store.replace("packs/aa/1", vec![7; 10]).unwrap_err();
    // The line is back. What waited in it is dropped.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = [0; 2000];
            let _ = connection.read(&mut head).unwrap_or(0);
            let _ = connection.write_all(ANSWER);
        }
    });
    let start = Instant::now();
    while store.replace("packs/aa/1", vec![7; 10]).is_err() {
        assert!(start.elapsed() < MOST, "never looked again");
        std::thread::sleep(Duration::from_millis(500));
    }
    let start = Instant::now();
    for n in 0..5 {
        store
            .replace(&format!("packs/aa/{n}"), vec![7; 10])
            .unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(3));
}
