//! Egress: the flows of clients.

use super::Owner;
use super::sockets::MAX_DIRECT;
use super::ways::{Attempt, Found, Ways};
use crate::driver::Driver;
use crate::driver::held::{Held, Place};
use crate::names;
use crate::network::{Client, Desired, Entrance, FoundName};
use envoy_config::Destination;
use nexodus_netstack::{ConnectError, Instant, UdpFlowId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A client that sends so many datagrams in such a time is busy: for fewer, a socket costs more than it spares.
const BUSY: u32 = 100;
const BUSY_TIME: Duration = Duration::from_millis(100);

/// Where clients get to, and what flows they have.
#[derive(Default)]
pub(super) struct Clients {
    relays: HashMap<SocketAddr, Ways>,
    /// Those that a listener leads to.
    routes: HashMap<Arc<str>, Ways>,
    flows: HashMap<Client, ClientFlow>,
    /// Datagrams that wait until a name is looked up.
    held: Held<Client>,
}

#[derive(Clone, Copy)]
struct ClientFlow {
    flow: UdpFlowId,
    /// When datagrams were counted anew, and how many have come by Envoy since.
    since: Instant,
    count: u32,
}

impl ClientFlow {
    /// A datagram has come by Envoy; whether its client has just proved busy.
    fn count(&mut self, now: Instant) -> bool {
        if now.saturating_since(self.since) > BUSY_TIME {
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        self.count == BUSY
    }
}

impl Clients {
    pub(super) fn apply(&mut self, desired: &Desired) {
        self.relays.retain(|relay, _| desired.udp_relays.contains_key(relay));
        for (relay, to) in &*desired.udp_relays {
            self.relays.entry(*relay).or_default().set(std::slice::from_ref(to));
        }
        let listened = |name: &Arc<str>| desired.udp_entrances.contains_key(name);
        self.routes.retain(|name, _| listened(name) && desired.udp_routes.contains_key(name));
        for (name, to) in desired.udp_routes.iter().filter(|(name, _)| listened(name)) {
            self.routes.entry(name.clone()).or_default().set(to);
        }
    }

    /// Whether this destination is one of those behind the entrance.
    pub(super) fn has(&self, entrance: &Entrance, to: &Destination) -> bool {
        let ways = match entrance {
            Entrance::Relay(relay) => self.relays.get(relay),
            Entrance::Route { name, .. } => self.routes.get(name),
        };
        ways.is_some_and(|ways| ways.has(to))
    }

    fn ways(&mut self, entrance: &Entrance) -> Option<&mut Ways> {
        match entrance {
            Entrance::Relay(relay) => self.relays.get_mut(relay),
            Entrance::Route { name, .. } => self.routes.get_mut(name),
        }
    }

    /// The client's flow has ended, unless it has another one already.
    pub(super) fn closed(&mut self, client: &Client, flow: UdpFlowId) {
        if self.flows.get(client).is_some_and(|of| of.flow == flow) {
            self.flows.remove(client);
        }
    }
}

impl Driver {
    /// A client's datagram, on its way into the overlay.
    pub(super) fn client_datagram(&mut self, now: Instant, client: Client, payload: &[u8]) {
        let flow = match self.udp.clients.flows.get_mut(&client) {
            Some(of) => {
                let flow = of.flow;
                if of.count(now) {
                    self.connect_directly(flow, client);
                }
                flow
            }
            None => match self.new_flow(now, &client) {
                Found::Made(flow, _) => flow,
                Found::Name(name) => return self.hold(client, name, payload),
                Found::Nothing => {
                    self.udp_stats.refused += 1;
                    return;
                }
            },
        };
        // What the netstack does not take it counts.
        self.stack.udp_send(now, flow, payload);
    }

    /// Has a busy client's datagrams come straight here, many for a system call: Envoy reads one in a call, and wakes this thread for
    /// it. A socket that cannot be had is no harm.
    fn connect_directly(&mut self, flow: UdpFlowId, client: Client) {
        let (Entrance::Route { local, .. }, Some(Owner::Egress { direct, .. })) =
            (&client.entrance, self.udp.flows.get_mut(&flow))
        else {
            return;
        };
        if direct.is_some() {
            return;
        }
        if self.udp.sockets.direct() >= MAX_DIRECT {
            self.udp_stats.direct_full += 1;
            return;
        }
        let local = *local;
        match self.udp.sockets.open_direct(flow, client, local, &self.registry) {
            Ok(socket) => *direct = Some(socket),
            Err(_) => self.udp_stats.socket_errors += 1,
        }
    }

    fn new_flow(&mut self, now: Instant, client: &Client) -> Found<UdpFlowId> {
        let Some(ways) = self.udp.clients.ways(&client.entrance) else { return Found::Nothing };
        let stack = &mut self.stack;
        let attempt = |address| match stack.udp_connect(now, address) {
            Ok(flow) => Attempt::Made(flow),
            Err(ConnectError::TooManyFlows) => Attempt::GiveUp,
            Err(_) => Attempt::PassOver,
        };
        match ways.find(attempt) {
            Found::Made(flow, to) if !self.keep(now, client, flow, &to) => Found::Nothing,
            found => found,
        }
    }

    /// False: answers would not find the way back.
    fn keep(&mut self, now: Instant, client: &Client, flow: UdpFlowId, to: &Arc<Destination>) -> bool {
        if let Entrance::Route { local, .. } = client.entrance
            && self.udp.answers.begin(local).is_err()
        {
            self.udp_stats.socket_errors += 1;
            self.stack.udp_release(now, flow);
            return false;
        }
        self.udp.clients.flows.insert(client.clone(), ClientFlow { flow, since: now, count: 1 });
        self.udp.flows.insert(flow, Owner::Egress { client: client.clone(), to: to.clone(), direct: None });
        true
    }

    /// A datagram that waits for a name to be looked up.
    fn hold(&mut self, client: Client, name: Arc<Destination>, payload: &[u8]) {
        let Destination::Name { host, port } = &*name else { return };
        match self.udp.clients.held.hold(client.clone(), payload) {
            Place::Behind => {}
            Place::None => self.udp_stats.refused += 1,
            Place::First => {
                let network = self.network.clone();
                let (for_client, for_name) = (client.clone(), name.clone());
                let found = move |addresses| {
                    network.name_found(FoundName { client: for_client, name: for_name, addresses });
                };
                if names::look_up(host, *port, Box::new(found)).is_err() {
                    self.udp.clients.held.take(&client);
                    self.network.count_refused_name();
                    self.udp_stats.refused += 1;
                }
            }
        }
    }

    /// Makes the flows whose names have been looked up.
    pub(in crate::driver) fn serve_found_names(&mut self, now: Instant) {
        if !self.is_first() {
            return;
        }
        for FoundName { client, name, addresses } in self.network.take_found_names() {
            let held = self.udp.clients.held.take(&client);
            if !self.udp.clients.has(&client.entrance, &name) {
                // The entrance has got another destination meanwhile.
                held.iter().for_each(|payload| self.client_datagram(now, client.clone(), payload));
                continue;
            }
            match self.found_flow(now, &client, &name, &addresses) {
                Some(flow) => held.iter().for_each(|payload| {
                    self.stack.udp_send(now, flow, payload);
                }),
                None => self.udp_stats.refused += held.len() as u64,
            }
        }
    }

    fn found_flow(
        &mut self,
        now: Instant,
        client: &Client,
        name: &Arc<Destination>,
        addresses: &[SocketAddr],
    ) -> Option<UdpFlowId> {
        // The client may have got a flow meanwhile.
        if let Some(of) = self.udp.clients.flows.get(client) {
            return Some(of.flow);
        }
        let flow = addresses.iter().find_map(|to| self.stack.udp_connect(now, *to).ok())?;
        self.keep(now, client, flow, name).then_some(flow)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::driver::thread::tests::driver;
    use envoy_config::{UdpDestination, UdpRoute};
    use mio::{Events, Poll};
    use std::net::UdpSocket;

    /// A listener of Envoy's, with a route to the peer.
    fn listener(driver: &Driver) -> UdpSocket {
        let to = UdpDestination { destination: "100.64.0.2:53".parse().unwrap(), addresses: None, weight: 1 };
        let route = UdpRoute { name: "dns".to_owned(), destinations: vec![to] };
        driver.network.set_udp_destinations(vec![route], Vec::new());
        driver.network.open_udp_entrance(&"dns".into());
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.into()
    }

    /// What the listener's filter does with the datagrams that arrive there; how many there are. The kernel may be late with
    /// those that are expected.
    fn pass_on(listener: &UdpSocket, driver: &Driver, expected: u32) -> u32 {
        let local = listener.local_addr().unwrap();
        let (mut count, mut buffer) = (0, [0; 64]);
        let start = std::time::Instant::now();
        loop {
            if let Ok((len, address)) = listener.recv_from(&mut buffer) {
                let entrance = Entrance::Route { name: "dns".into(), local };
                driver.network.datagram(Client { entrance, address }, std::iter::once(&buffer[..len]));
                count += 1;
            } else if count >= expected || start.elapsed() > Duration::from_secs(5) {
                return count;
            }
        }
    }

    fn turn(driver: &mut Driver, poll: &mut Poll) {
        let mut events = Events::with_capacity(64);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        driver.ready(&events);
        driver.turn().unwrap();
    }

    fn client(listener: &UdpSocket) -> UdpSocket {
        let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        client.connect(listener.local_addr().unwrap()).unwrap();
        client
    }

    fn send(client: &UdpSocket, count: u32) {
        for _ in 0..count {
            client.send(b"datagram").unwrap();
        }
    }

    #[test]
    fn a_busy_client_gets_a_socket_of_its_own_and_others_do_not() {
        let (mut driver, mut poll) = driver("busy");
        let listener = listener(&driver);
        turn(&mut driver, &mut poll);
        let (busy, calm) = (client(&listener), client(&listener));
        send(&busy, BUSY);
        send(&calm, BUSY - 1);
        assert_eq!(pass_on(&listener, &driver, 2 * BUSY - 1), 2 * BUSY - 1);
        turn(&mut driver, &mut poll);
        assert_eq!(driver.udp.direct(), 1);
        // What comes now reaches the flow, and nobody has to pass it on.
        let sent = |driver: &Driver| driver.stack.stats().udp_sent;
        let before = sent(&driver);
        send(&busy, 10);
        let start = std::time::Instant::now();
        while sent(&driver) - before < 10 && start.elapsed() < Duration::from_secs(5) {
            turn(&mut driver, &mut poll);
        }
        assert_eq!((pass_on(&listener, &driver, 0), sent(&driver) - before), (0, 10));
        send(&calm, 1);
        assert_eq!(pass_on(&listener, &driver, 1), 1);
        // The rule goes, and both flows with it.
        driver.network.set_udp_destinations(Vec::new(), Vec::new());
        turn(&mut driver, &mut poll);
        assert!(driver.udp.flows.is_empty() && driver.udp.clients.flows.is_empty());
        assert_eq!(driver.udp.direct(), 0);
        send(&busy, 1);
        assert_eq!(pass_on(&listener, &driver, 1), 1, "it is Envoy's again");
    }

    #[test]
    fn flows_end_with_the_last_listener() {
        let (mut driver, mut poll) = driver("listeners");
        let listener = listener(&driver);
        // Envoy has the configuration that replaces one before it gives that one up.
        driver.network.open_udp_entrance(&"dns".into());
        driver.network.close_udp_entrance(&"dns".into());
        turn(&mut driver, &mut poll);
        let busy = client(&listener);
        send(&busy, BUSY);
        pass_on(&listener, &driver, BUSY);
        turn(&mut driver, &mut poll);
        assert_eq!((driver.udp.direct(), driver.udp.flows.len()), (1, 1));
        driver.network.close_udp_entrance(&"dns".into());
        turn(&mut driver, &mut poll);
        assert_eq!((driver.udp.direct(), driver.udp.flows.len()), (0, 0));
    }

    #[test]
    fn sockets_of_busy_clients_are_bounded() {
        let (mut driver, mut poll) = driver("many-busy");
        let listener = listener(&driver);
        turn(&mut driver, &mut poll);
        let clients: Vec<UdpSocket> = (0..MAX_DIRECT + 1).map(|_| client(&listener)).collect();
        for client in &clients {
            send(client, BUSY);
            assert_eq!(pass_on(&listener, &driver, BUSY), BUSY);
            turn(&mut driver, &mut poll);
        }
        assert_eq!((driver.udp.direct(), driver.udp_stats.direct_full), (MAX_DIRECT, 1));
        assert_eq!(driver.udp.flows.len(), MAX_DIRECT + 1);
    }

    #[test]
    fn a_route_that_is_not_there_refuses() {
        let (mut driver, mut poll) = driver("no-route");
        let entrance = Entrance::Route { name: "dns".into(), local: ([127, 0, 0, 1], 53).into() };
        let client = Client { entrance, address: ([127, 0, 0, 1], 4242).into() };
        driver.network.datagram(client, std::iter::once(&b"?"[..]));
        turn(&mut driver, &mut poll);
        assert_eq!((driver.udp.flows.len(), driver.udp_stats.refused), (0, 1));
    }

    #[test]
    fn slow_datagrams_are_never_a_busy_client() {
        let (mut driver, _poll) = driver("slow");
        let mut now = driver.clock.now();
        let flow = driver.stack.udp_connect(now, ([100, 64, 0, 2], 53).into()).unwrap();
        let mut of = ClientFlow { flow, since: now, count: 1 };
        for _ in 0..10 * BUSY {
            now = now + BUSY_TIME / (BUSY - 10);
            assert!(!of.count(now));
        }
        assert!((0..BUSY).any(|_| of.count(now)));
    }
}
