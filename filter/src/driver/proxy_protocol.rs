//! The PROXY protocol v2 header (haproxy's `proxy-protocol.txt`, section 2.2): it gives Envoy the overlay's
//! addresses.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header of a TCP connection. Both addresses are of one family, as those of a connection are.
pub(super) fn header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(VERSION_COMMAND);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.push(TCP_OVER_IPV4);
            header.extend(12u16.to_be_bytes());
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.push(TCP_OVER_IPV6);
            header.extend(36u16.to_be_bytes());
            for ip in [from, to] {
                header.extend(match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                });
            }
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn ipv4_header_is_that_of_the_specification() {
        let header = header("100.64.0.2:40000".parse().unwrap(), "100.64.0.1:443".parse().unwrap());
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        expected.extend([0x21, 0x11, 0, 12, 100, 64, 0, 2, 100, 64, 0, 1, 0x9c, 0x40, 0x01, 0xbb]);
        assert_eq!(header, expected);
    }

    #[test]
    fn ipv6_header_is_52_bytes_long() {
        let header = header("[fd00::2]:1".parse().unwrap(), "[fd00::1]:2".parse().unwrap());
        assert_eq!((header.len(), header[13], &header[14..16]), (52, 0x21, &[0, 36][..]));
        assert_eq!(header[48..], [0, 1, 0, 2]);
    }
}
