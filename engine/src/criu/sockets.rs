//! Sockets in `files.img`: who listens where, and who talks to whom.
//!
//! Owns addresses and states. Always: an address that is not of the length of its family is absent. Never: the data in
//! a socket's queues, which lie in images of their own.
//!
//! Fields from `images/sk-inet.proto` and `images/sk-unix.proto`. Addresses are the kernel's words as they lie in
//! memory, of a little-endian machine; states are those of TCP (`include/net/tcp_states.h`), which Unix sockets use too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::CriuError;
use super::wire::Field;

/// `AF_INET` and `AF_INET6`.
const FAMILY_4: u32 = 2;
const FAMILY_6: u32 = 10;
/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// What a socket was about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SocketState {
    /// Connected.
    Established,
    /// Neither listening nor connected.
    #[default]
    Closed,
    /// Waiting for connections.
    Listening,
    /// On the way from one to another: the number of `TCP_*`.
    Between(u32),
}

impl SocketState {
    fn new(number: u32) -> Self {
        match number {
            1 => Self::Established,
            7 => Self::Closed,
            10 => Self::Listening,
            other => Self::Between(other),
        }
    }
}

/// A socket of IPv4 or IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InetSocket {
    /// `SOCK_*`.
    pub kind: u32,
    /// `IPPROTO_*`.
    pub protocol: u32,
    /// As the kernel has it; of UDP, whether it is connected.
    pub state: SocketState,
    /// Its own address.
    pub local: Option<SocketAddr>,
    /// The other side's, if it is connected.
    pub remote: Option<SocketAddr>,
}

impl InetSocket {
    /// Whether CRIU saves it only if it is told what to do with connections of TCP.
    pub fn is_tcp_connection(&self) -> bool {
        self.protocol == TCP
            && self.kind == STREAM
            && !matches!(self.state, SocketState::Listening | SocketState::Closed)
    }

    pub(super) fn parse(field: &Field<'_>) -> Result<Self, CriuError> {
        let mut socket = Self::default();
        let (mut family, mut ports) = (0, [0, 0]);
        let mut words = [Words::default(), Words::default()];
        for inner in field.message("inet socket entry")? {
            let inner = inner?;
            match inner.number {
                3 => family = inner.u32()?,
                4 => socket.kind = inner.u32()?,
                5 => socket.protocol = inner.u32()?,
                6 => socket.state = SocketState::new(inner.u32()?),
                7 => ports[0] = inner.u32()?,
                8 => ports[1] = inner.u32()?,
                11 => words[0].add(&inner)?,
                12 => words[1].add(&inner)?,
                _ => {}
            }
        }
        let [local, remote] = [0, 1].map(|side| {
            let port = u16::try_from(ports[side]).ok()?;
            let address = words[side].address(family)?;
            Some(SocketAddr::new(address, port))
        });
        socket.local = local;
        socket.remote = remote.filter(|to| to.port() != 0 || !to.ip().is_unspecified());
        Ok(socket)
    }
}

/// The words of an address; more than an address has are counted only.
#[derive(Default)]
struct Words {
    words: [u32; 4],
    count: usize,
}

impl Words {
    fn add(&mut self, field: &Field<'_>) -> Result<(), CriuError> {
        for word in field.varints()? {
            let word = field.narrow(word?)?;
            if let Some(place) = self.words.get_mut(self.count) {
                *place = word;
            }
            self.count = self.count.saturating_add(1);
        }
        Ok(())
    }

    fn address(&self, family: u32) -> Option<IpAddr> {
        let [first, ..] = self.words;
        match (family, self.count) {
            // CRIU stores four words for both families.
            (FAMILY_4, 1 | 4) => Some(Ipv4Addr::from(first.to_le_bytes()).into()),
            (FAMILY_6, 4) => {
                let mut bytes = [0; 16];
                for (place, word) in bytes.chunks_exact_mut(4).zip(self.words) {
                    place.copy_from_slice(&word.to_le_bytes());
                }
                Some(Ipv6Addr::from(bytes).into())
            }
            _ => None,
        }
    }
}

/// A socket of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnixSocket {
    /// `SOCK_*`.
    pub kind: u32,
    /// Whether it listens or is connected.
    pub state: SocketState,
    /// Its inode.
    pub inode: u32,
    /// The inode of the other side; 0: none.
    pub peer: u32,
    /// Its name: a path, or text behind a zero byte (abstract). Empty: it has none.
    pub name: Vec<u8>,
}

impl UnixSocket {
    pub(super) fn parse(field: &Field<'_>) -> Result<Self, CriuError> {
        let mut socket = Self::default();
        for inner in field.message("unix socket entry")? {
            let inner = inner?;
            match inner.number {
                2 => socket.inode = inner.u32()?,
                3 => socket.kind = inner.u32()?,
                4 => socket.state = SocketState::new(inner.u32()?),
                8 => socket.peer = inner.u32()?,
                11 => socket.name = inner.bytes()?.to_vec(),
                _ => {}
            }
        }
        // A path has its end in it.
        if socket.name.first().is_some_and(|first| *first != 0) && socket.name.ends_with(&[0]) {
            socket.name.pop();
        }
        Ok(socket)
    }
}
