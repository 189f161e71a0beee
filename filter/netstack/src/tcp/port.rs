//! The network device that smoltcp sees.

use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};

/// A network device that holds one packet each way.
pub(super) struct Port<'a> {
    pub(super) rx: Option<&'a [u8]>,
    pub(super) tx: Option<&'a mut Vec<u8>>,
    pub(super) mtu: usize,
}

impl Port<'_> {
    /// Takes nothing and gives nothing.
    pub(super) fn closed(mtu: usize) -> Self {
        Self { rx: None, tx: None, mtu }
    }
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sent<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received<'_>, Sent<'_>)> {
        let tx = self.tx.as_deref_mut()?;
        Some((Received(self.rx.take()?), Sent(tx)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sent<'_>> {
        self.tx.as_deref_mut().filter(|tx| tx.is_empty()).map(Sent)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // What arrives is authenticated: a second check of its integrity would find nothing.
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = Checksum::Tx;
        capabilities.checksum = checksum;
        capabilities
    }
}

pub(super) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

pub(super) struct Sent<'a>(&'a mut Vec<u8>);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        self.0.clear();
        self.0.resize(len, 0);
        write(self.0)
    }
}
