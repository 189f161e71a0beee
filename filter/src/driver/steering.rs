//! Which of the sockets of a port gets a datagram: the one whose thread has the peer.
//!
//! The kernel is told so by a classic BPF program, which needs no privileges (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)). The receiver index of a
//! WireGuard message (WireGuard paper, section 5.4; little-endian) holds the peer's number in its upper 24 bits, which modulo
//! the number of threads is the thread's. A handshake initiation names no receiver: it goes to the first.
//!
//! A system without that (gVisor) chooses by addresses, and the threads hand over to each other what is not theirs.

use nix::libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LSH, BPF_MISC, BPF_MOD, BPF_OR,
    BPF_RET, BPF_TAX, BPF_X, sock_filter, sock_fprog,
};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::AsFd;

/// Where the receiver index stands in a handshake response, and in a cookie reply or data.
const IN_RESPONSE: u32 = 8;
const IN_OTHERS: u32 = 4;

/// Has the group of sockets that `socket` belongs to chosen from so, in the order in which they were bound.
pub(super) fn attach(socket: &impl AsFd, count: usize) -> io::Result<()> {
    let mut program = program(u32::try_from(count).unwrap_or(1));
    let len = u16::try_from(program.len()).unwrap_or_default();
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?;
    Ok(())
}

fn program(count: u32) -> Vec<sock_filter> {
    let by_response = by_receiver(IN_RESPONSE, count);
    let past = u8::try_from(by_response.len()).unwrap_or_default();
    let mut program = vec![
        instruction(BPF_LD | BPF_B | BPF_ABS, 0),
        // Types 3 and 4 go past what is for type 2.
        jump_if(3, past + 3),
        jump_if(4, past + 2),
        jump_if(2, 1),
        instruction(BPF_RET | BPF_K, 0),
    ];
    program.extend(by_response);
    program.extend(by_receiver(IN_OTHERS, count));
    program
}

/// Reads the upper three bytes of the index, the last one first; their remainder is the result.
fn by_receiver(index: u32, count: u32) -> Vec<sock_filter> {
    let byte = |n| instruction(BPF_LD | BPF_B | BPF_ABS, index + n);
    let shift = || [instruction(BPF_ALU | BPF_LSH | BPF_K, 8), instruction(BPF_MISC | BPF_TAX, 0)];
    let or = || instruction(BPF_ALU | BPF_OR | BPF_X, 0);
    let [shift_1, keep_1] = shift();
    let [shift_2, keep_2] = shift();
    vec![
        byte(3),
        shift_1,
        keep_1,
        byte(2),
        or(),
        shift_2,
        keep_2,
        byte(1),
        or(),
        instruction(BPF_ALU | BPF_MOD | BPF_K, count),
        instruction(BPF_RET | BPF_A, 0),
    ]
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

/// Past `skip` instructions if the accumulator is `value`.
fn jump_if(value: u32, skip: u8) -> sock_filter {
    sock_filter { jt: skip, ..instruction(BPF_JMP | BPF_JEQ | BPF_K, value) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::udp::Bound;
    use std::net::UdpSocket;
    use std::time::Duration;

    const COUNT: u32 = 3;

    /// A message of this type with this receiver index, where it is in that type.
    fn message(kind: u8, index: u32) -> Vec<u8> {
        let mut message = vec![0; 32];
        message[0] = kind;
        let at = if kind == 2 { 8 } else { 4 };
        message[at..at + 4].copy_from_slice(&index.to_le_bytes());
        message
    }

    #[test]
    fn a_datagram_arrives_where_its_index_says() {
        let sockets: Vec<UdpSocket> = Bound::open_several(0, COUNT as usize)
            .unwrap()
            .into_iter()
            .map(|bound| UdpSocket::from(bound.into_socket()))
            .collect();
        let port = sockets[0].local_addr().unwrap().port();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap().port() == port));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let arrives_at = |datagram: &[u8]| {
            sender.send_to(datagram, ("127.0.0.1", port)).unwrap();
            let mut buffer = [0; 64];
            for _ in 0..1000 {
                if let Some(at) = sockets.iter().position(|socket| socket.recv(&mut buffer).is_ok()) {
                    return at;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            usize::MAX
        };
        for peer in [0, 1, 2, 3, 254, 255, 256, 257, 65_535, 65_536, (1 << 24) - 1] {
            for kind in [2, 3, 4] {
                let at = arrives_at(&message(kind, peer << 8 | 0xfe));
                assert_eq!(at, (peer % COUNT) as usize, "type {kind} for peer {peer}");
            }
            assert_eq!(arrives_at(&message(1, peer << 8)), 0);
        }
        // Too short to have an index.
        assert_eq!((arrives_at(&[4]), arrives_at(&[])), (0, 0));
    }

    #[test]
    fn a_port_is_shared_by_the_threads_and_nobody_else() {
        let sockets = Bound::open_several(0, 2).unwrap();
        let address = sockets[0].address().unwrap();
        let second = Bound::open_several(address.port(), 2).map(|sockets| sockets.len());
        assert_eq!(second.map_err(|error| error.kind()), Err(std::io::ErrorKind::AddrInUse));
    }
}
