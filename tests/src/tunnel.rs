//! The arrangement of most tests.

use std::net::SocketAddr;

use crate::identity::Identity;
use crate::needs::Products;
use crate::node::{Node, NodeBuilder};
use crate::ports::free_port;

/// Two nodes on loopback: a local port, node two's Envoy, the overlay, node one's Envoy, a server.
pub struct Tunnel {
    /// The node with the ingress rule, at port [`Tunnel::OVERLAY_PORT`].
    pub one: Node<'static>,
    /// The node with the egress rule.
    pub two: Node<'static>,
    /// Where clients connect: a port of node two's host.
    pub port: u16,
}

impl Tunnel {
    /// The port of node one's overlay addresses.
    pub const OVERLAY_PORT: u16 = 8080;

    /// A tunnel to this server.
    #[track_caller]
    pub fn to(products: &Products, server: SocketAddr) -> Tunnel {
        let [one, two] = Identity::several();
        let port = free_port();
        let overlay_port = Tunnel::OVERLAY_PORT;
        let ingress = Node::with(products, &one).peer(&two).ingress(format!("tcp:{overlay_port}:{server}"));
        let egress =
            Node::with(products, &two).peer(&one).egress(format!("tcp:{port}:{}:{overlay_port}", one.v4));
        let (mut one, mut two) = (ingress.build(), egress.build());
        one.launch();
        two.start();
        one.wait_ready();
        Tunnel { one, two, port }
    }

    /// The name of the ingress listener.
    pub fn ingress_listener(&self) -> String {
        format!("ingress/tcp/{}", Tunnel::OVERLAY_PORT)
    }

    /// The name of the egress listener.
    pub fn egress_listener(&self) -> String {
        format!("egress/tcp/{}", self.port)
    }
}

/// A node that reaches this server by itself: from this port of its host into the overlay, and back at its own address there.
pub fn circle(
    products: &Products,
    identity: &Identity,
    port: u16,
    server: SocketAddr,
) -> NodeBuilder<'static> {
    let overlay_port = Tunnel::OVERLAY_PORT;
    Node::with(products, identity)
        .ingress(format!("tcp:{overlay_port}:{server}"))
        .egress(format!("tcp:{port}:{}:{overlay_port}", identity.v4))
}
