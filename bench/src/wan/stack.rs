//! TCP implementations that run inside the benchmark, at one end of the link.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// What a stack in this process does on its one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Connects to this address and sends without end.
    Source(SocketAddrV4),
    /// Listens on its address and this port, and takes everything.
    Sink(u16),
}

/// A TCP implementation without I/O, with one connection. Time is a [`Duration`] since the rig's epoch.
pub(super) trait Stack {
    /// An IP packet arrived.
    fn receive(&mut self, now: Duration, packet: &[u8]);

    /// Hands every packet that should leave now to `send`, and moves the application's bytes.
    fn poll(&mut self, now: Duration, send: &mut dyn FnMut(&[u8]));

    /// When to poll again if nothing arrives.
    fn deadline(&mut self, now: Duration) -> Option<Duration>;

    /// Bytes the application got.
    fn received(&self) -> u64;
}

/// What every stack is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) address: Ipv4Addr,
    pub(super) role: Role,
    pub(super) seed: u64,
    /// Of the path between two stacks, in bytes.
    pub(super) mtu: u16,
    /// For stacks whose buffers do not grow: the bytes of each.
    pub(super) buffer: usize,
}

/// What a source sends.
pub(super) static CONTENT: [u8; 64 << 10] = [0x5a; 64 << 10];
