//! A link in real time, with senders on its left and one receiver on its right.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::kernel::Kernel;
use super::link::{Counters, Direction, Late, Shape};
use super::stack::Stack;
use crate::Result;

/// Packets taken from one kernel before the others get their turn.
const BATCH: usize = 64;

/// Who speaks TCP at one end.
pub(super) enum End<'a> {
    Kernel(Kernel<'a>),
    Stack(Box<dyn Stack>),
}

/// One end of the link.
pub(super) struct Host<'a> {
    pub(super) address: Ipv4Addr,
    /// How far it is from the link; adds to the delay of the packets it sends.
    pub(super) further: Duration,
    pub(super) end: End<'a>,
}

pub(super) struct Rig<'a> {
    pub(super) left: Vec<Host<'a>>,
    pub(super) right: Host<'a>,
    /// To the right: the data.
    forward: Direction,
    /// To the left: the acknowledgements.
    back: Direction,
    epoch: Instant,
    buffer: Vec<u8>,
}

impl<'a> Rig<'a> {
    pub(super) fn new(left: Vec<Host<'a>>, right: Host<'a>, forward: Shape, back: Shape, seed: u64) -> Self {
        Self {
            left,
            right,
            forward: Direction::new(forward, seed),
            back: Direction::new(back, !seed),
            epoch: Instant::now(),
            buffer: vec![0; 64 << 10],
        }
    }

    /// Carries packets for this long; the time begins with the first packet.
    pub(super) fn run(&mut self, time: Duration) -> Result<()> {
        let mut begin = None;
        loop {
            let now = self.epoch.elapsed();
            let busy = self.collect()? | self.distribute()?;
            if begin.is_none() && self.forward.counters != Counters::default() {
                begin = Some(now);
            }
            if now.saturating_sub(begin.unwrap_or_default()) >= time {
                return Ok(());
            }
            if !busy {
                self.wait(begin.map(|begin| begin + time))?;
            }
        }
    }

    /// What happened to the data.
    pub(super) const fn counters(&self) -> Counters {
        self.forward.counters
    }

    /// Packets of both directions that left the link too late.
    pub(super) const fn late(&self) -> Late {
        let (forward, back) = (self.forward.late, self.back.late);
        Late { packets: forward.packets + back.packets, late: forward.late + back.late }
    }

    /// From the ends into the link.
    fn collect(&mut self) -> Result<bool> {
        let mut busy = false;
        for host in &mut self.left {
            busy |= collect(host, &mut self.forward, self.epoch, &mut self.buffer)?;
        }
        busy |= collect(&mut self.right, &mut self.back, self.epoch, &mut self.buffer)?;
        Ok(busy)
    }

    /// From the link to the ends.
    fn distribute(&mut self) -> Result<bool> {
        let now = self.epoch.elapsed();
        let mut busy = false;
        while let Some(packet) = self.forward.deliver(now) {
            give(&mut self.right, now, &packet)?;
            busy = true;
        }
        while let Some(packet) = self.back.deliver(now) {
            let to = packet.get(16..20);
            if let Some(host) = self.left.iter_mut().find(|host| Some(&host.address.octets()[..]) == to) {
                give(host, now, &packet)?;
            }
            busy = true;
        }
        Ok(busy)
    }

    /// Until something arrives or is due.
    fn wait(&mut self, end: Option<Duration>) -> Result<()> {
        let now = self.epoch.elapsed();
        let mut next = [self.forward.next(), self.back.next(), end].into_iter().flatten().min();
        let mut descriptors = Vec::new();
        for host in self.left.iter_mut().chain([&mut self.right]) {
            match &mut host.end {
                End::Kernel(kernel) => {
                    descriptors.push(PollFd::from_borrowed_fd(kernel.device(), PollFlags::IN))
                }
                End::Stack(stack) => next = [next, stack.deadline(now)].into_iter().flatten().min(),
            }
        }
        let wait = next.map(|next| next.saturating_sub(now));
        if wait == Some(Duration::ZERO) {
            return Ok(());
        }
        let wait = wait.map(Timespec::try_from).transpose()?;
        poll(&mut descriptors, wait.as_ref())?;
        Ok(())
    }
}

fn collect(host: &mut Host<'_>, into: &mut Direction, epoch: Instant, buffer: &mut [u8]) -> Result<bool> {
    let mut taken = 0;
    match &mut host.end {
        End::Kernel(kernel) => {
            while taken < BATCH
                && let Some(length) = kernel.take(buffer)?
            {
                taken += 1;
                // Not what IPv6 says of its own accord.
                if buffer[0] >> 4 == 4 {
                    into.offer(epoch.elapsed(), &buffer[..length], host.further);
                }
            }
        }
        End::Stack(stack) => {
            let now = epoch.elapsed();
            stack.poll(now, &mut |packet| {
                into.offer(now, packet, host.further);
                taken += 1;
            });
        }
    }
    Ok(taken > 0)
}

fn give(host: &mut Host<'_>, now: Duration, packet: &[u8]) -> Result<()> {
    match &mut host.end {
        End::Kernel(kernel) => kernel.give(packet),
        End::Stack(stack) => {
            stack.receive(now, packet);
            Ok(())
        }
    }
}
