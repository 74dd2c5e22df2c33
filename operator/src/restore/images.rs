//! Owns what the files and sockets of a dump mean for a restore, as far as they decide something here.
//!
//! Always: an image that does not parse says nothing: CRIU itself will say more of it. Never: believes a path.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use cryostore_engine::criu::{FileKind, InetSocket, SocketState, parse_files};

const IPPROTO_TCP: u32 = 6;

/// What the processes have open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// Regular files and directories, by path in the container.
    pub files: BTreeSet<String>,
    /// Addresses and ports that are listened on or bound to, `0.0.0.0` among them.
    pub bound: BTreeSet<(IpAddr, u16)>,
    /// Established TCP connections, by the address and port of the other side.
    pub connected: BTreeSet<(IpAddr, u16)>,
}

/// Reads files.img.
pub(crate) fn read(bytes: &[u8]) -> Open {
    let mut open = Open::default();
    for file in parse_files(bytes).unwrap_or_default() {
        match file.kind {
            FileKind::Path { path, .. } => {
                open.files.insert(path);
            }
            FileKind::Inet(socket) => see(&socket, &mut open),
            _ => {}
        }
    }
    open
}

fn see(socket: &InetSocket, open: &mut Open) {
    let is_tcp = socket.protocol == IPPROTO_TCP;
    // An address of IPv4 in the form of IPv6 is the same.
    let place = |at: SocketAddr| (at.ip().to_canonical(), at.port());
    if let Some(at) = socket.local
        && at.port() != 0
        && (!is_tcp || socket.state == SocketState::Listening)
    {
        open.bound.insert(place(at));
    }
    if let Some(at) = socket.remote
        && is_tcp
        && socket.state == SocketState::Established
    {
        open.connected.insert(place(at));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use cryostore_engine::criu::magic;

    use super::*;

    /// A number that fits one byte, or bytes of at most 127.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn varint(number: u8, mut value: u64) -> Vec<u8> {
        let mut out = vec![number << 3];
        while value > 127 {
            out.push(u8::try_from(value & 127).unwrap() | 128);
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap());
        out
    }

    fn image(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut out = [magic::IMG_COMMON.to_le_bytes(), magic::FILES.to_le_bytes()].concat();
        for entry in entries {
            out.extend_from_slice(&u32::try_from(entry.len()).unwrap().to_le_bytes());
            out.extend_from_slice(entry);
        }
        out
    }

    fn entry(kind: u64, number: u8, body: &[u8]) -> Vec<u8> {
        [varint(1, kind), varint(2, 9), field(number, body)].concat()
    }

    fn inet(proto: u64, state: u64, from: (u32, u64), to: (u32, u64)) -> Vec<u8> {
        let body = [
            varint(3, 2),
            varint(5, proto),
            varint(6, state),
            varint(7, from.1),
            varint(8, to.1),
            varint(11, from.0.into()),
            varint(12, to.0.into()),
        ];
        entry(4, 4, &body.concat())
    }

    #[test]
    fn files_listeners_and_connections_are_told_apart() {
        let at = |text: &str| u32::from_le_bytes(text.parse::<Ipv4Addr>().unwrap().octets());
        let bytes = image(&[
            entry(1, 3, &field(6, b"/data/x.db")),
            inet(6, 10, (at("10.1.2.3"), 80), (0, 0)),
            inet(6, 10, (0, 8080), (0, 0)),
            inet(6, 1, (at("10.1.2.3"), 40000), (at("10.9.9.9"), 5432)),
            inet(17, 7, (at("10.1.2.3"), 53), (0, 0)),
        ]);
        let open = read(&bytes);
        assert_eq!(open.files.into_iter().collect::<Vec<_>>(), ["/data/x.db"]);
        let text = |set: BTreeSet<(IpAddr, u16)>| -> Vec<String> {
            set.iter().map(|(a, p)| format!("{a}:{p}")).collect()
        };
        assert_eq!(
            text(open.bound),
            ["0.0.0.0:8080", "10.1.2.3:53", "10.1.2.3:80"]
        );
        assert_eq!(text(open.connected), ["10.9.9.9:5432"]);
    }

    #[test]
    fn bytes_that_are_no_image_say_nothing() {
        for bytes in [&b""[..], b"garbage", &image(&[vec![0xff; 20]])] {
            assert_eq!(read(bytes), Open::default());
        }
    }
}
