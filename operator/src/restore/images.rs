//! Owns what the files and sockets of a dump mean for a restore: files.img of CRIU, as far as it decides something here.
//!
//! Always: what does not parse is left out: CRIU itself will say more of it. Never: believes a path.
//!
//! Stands on CRIU's images/fdinfo.proto (file_entry), regfile.proto and sk-inet.proto; states of TCP are those of Linux, net/tcp_states.h.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cryostore_engine::criu::wire::Value;
use cryostore_engine::criu::{magic, records};

const ESTABLISHED: u32 = 1;
const LISTEN: u32 = 10;
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
    let Ok(records) = records(bytes, magic::FILES) else {
        return open;
    };
    for record in records.flatten() {
        for field in record.fields("file_entry").flatten() {
            match field.number {
                3 => open.files.extend(file(&field)),
                4 => socket(&field, &mut open),
                _ => {}
            }
        }
    }
    open
}

type Field<'a> = cryostore_engine::criu::wire::Field<'a>;

fn file(field: &Field<'_>) -> Option<String> {
    let inner = field.message("reg_file_entry").ok()?;
    inner.flatten().find(|f| f.number == 5)?.text().ok()
}

fn socket(field: &Field<'_>, open: &mut Open) {
    let Ok(inner) = field.message("inet_sk_entry") else {
        return;
    };
    let (mut proto, mut state, mut ports) = (0, 0, (0, 0));
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for field in inner.flatten() {
        let number = || field.u32().unwrap_or(0);
        let port = || u16::try_from(number()).unwrap_or(0);
        match field.number {
            5 => proto = number(),
            6 => state = number(),
            7 => ports.0 = port(),
            8 => ports.1 = port(),
            11 => words(&field, &mut from),
            12 => words(&field, &mut to),
            _ => {}
        }
    }
    if let (Some(at), true) = (address(&from), ports.0 != 0)
        && !(proto == IPPROTO_TCP && state != LISTEN)
    {
        open.bound.insert((at, ports.0));
    }
    if let (Some(at), true) = (address(&to), proto == IPPROTO_TCP && state == ESTABLISHED) {
        open.connected.insert((at, ports.1));
    }
}

/// One number, or several in one piece.
fn words(field: &Field<'_>, out: &mut Vec<u32>) {
    if matches!(field.value, Value::Bytes(_)) {
        let packed = field.varints().into_iter().flatten().flatten();
        // Four make an address of IPv6; more are none.
        out.extend(packed.filter_map(|n| u32::try_from(n).ok()).take(5));
    } else {
        out.extend(field.u32());
    }
}

/// As it lies in memory, in words of the machine that dumped it: all that CRIU runs on for us are little-endian.
fn address(words: &[u32]) -> Option<IpAddr> {
    match words {
        [word] => Some(Ipv4Addr::from(word.to_le_bytes()).into()),
        [_, _, _, _] => {
            let mut bytes = [0; 16];
            for (part, word) in bytes.chunks_exact_mut(4).zip(words) {
                part.copy_from_slice(&word.to_le_bytes());
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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

    fn inet(proto: u64, state: u64, from: (u32, u64), to: (u32, u64)) -> Vec<u8> {
        let body = [
            varint(5, proto),
            varint(6, state),
            varint(7, from.1),
            varint(8, to.1),
            varint(11, from.0.into()),
            varint(12, to.0.into()),
        ];
        field(4, &body.concat())
    }

    #[test]
    fn files_listeners_and_connections_are_told_apart() {
        let at = |text: &str| u32::from_le_bytes(text.parse::<Ipv4Addr>().unwrap().octets());
        let bytes = image(&[
            field(3, &field(5, b"/data/x.db")),
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
