//! Random scenarios against clients that behave like Envoy: whatever is published, accepted and rejected in whatever
//! order, in the end a client has the last snapshot, except for what it rejects, and nobody talks for ever.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// More messages than any scenario needs to come to rest.
const PATIENCE: usize = 500;

/// What a resource's content stands for: 0 absent, 1 and 2 good, 3 bad.
type World = [[u8; 4]; 4];

#[derive(Clone, Debug)]
enum Event {
    Publish(World),
    /// The server's responses reach the client, one at a time.
    Deliver,
    /// The client's requests reach the server, one at a time.
    Reply,
    Reconnect,
    /// The client comes to want, or no more to want, endpoints or extension configurations of this name.
    Toggle(bool, usize),
}

fn publish(world: &World) -> Snapshot {
    let mut resources = Vec::new();
    for (kind, contents) in ResourceType::ALL.into_iter().zip(world) {
        for (name, content) in NAMES.iter().zip(contents).filter(|(_, content)| **content != 0) {
            resources.push(resource(kind, name, &content.to_string()));
        }
    }
    resources.into_iter().collect()
}

fn is_bad(content: &str) -> bool {
    content == "3"
}

/// What a client has of one type.
#[derive(Clone, Debug, Default)]
pub(super) struct Have {
    pub(super) contents: BTreeMap<String, String>,
    /// The versions that it would claim after a reconnect, and their contents (delta).
    versions: BTreeMap<String, (String, String)>,
    names: BTreeSet<String>,
    /// Names that it has asked for and heard nothing of: a cluster does not go on without (delta).
    unanswered: BTreeSet<String>,
}

/// The client's side of a protocol.
pub(super) trait Client: Default {
    type Stream: Subscription + Default;
    /// The first requests of a stream.
    fn connect(&mut self) -> Vec<<Self::Stream as Subscription>::Request>;
    fn receive(
        &mut self,
        response: <Self::Stream as Subscription>::Response,
    ) -> <Self::Stream as Subscription>::Request;
    fn toggle(&mut self, kind: ResourceType, name: &str) -> Option<<Self::Stream as Subscription>::Request>;
    fn have(&self, kind: ResourceType) -> &Have;
    /// Whether the client could tell another stream what it has.
    fn knows_itself(&self) -> bool;
}

#[derive(Debug, Default)]
pub(super) struct SotwClient {
    have: [Have; 4],
    nonces: [String; 4],
}

impl SotwClient {
    fn request(&self, kind: ResourceType, error: Option<rpc::Status>) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: self.have[kind as usize].names.iter().cloned().collect(),
            response_nonce: self.nonces[kind as usize].clone(),
            error_detail: error,
            ..Default::default()
        }
    }
}

impl Client for SotwClient {
    type Stream = StateOfTheWorld;

    fn connect(&mut self) -> Vec<DiscoveryRequest> {
        self.nonces = Default::default();
        ResourceType::ALL.map(|kind| self.request(kind, None)).to_vec()
    }

    fn receive(&mut self, response: DiscoveryResponse) -> DiscoveryRequest {
        let kind = ResourceType::from_type_url(&response.type_url).unwrap();
        self.nonces[kind as usize] = response.nonce;
        let have = &mut self.have[kind as usize];
        let mut errors = String::new();
        let received: BTreeMap<_, _> = response.resources.iter().map(content).collect();
        if kind.is_full_state() {
            have.contents.retain(|name, _| received.contains_key(name));
        } else if received.values().any(|content| is_bad(content)) {
            // All or nothing, and no name.
            return self.request(kind, error("malformed"));
        }
        for (name, content) in received {
            if is_bad(&content) {
                errors += &format!("{name}: bad\n");
            } else if kind.is_full_state() || have.names.contains(&name) {
                have.contents.insert(name, content);
            }
        }
        self.request(kind, if errors.is_empty() { None } else { error(&errors) })
    }

    fn toggle(&mut self, kind: ResourceType, name: &str) -> Option<DiscoveryRequest> {
        toggle(&mut self.have[kind as usize], name);
        Some(self.request(kind, None))
    }

    fn have(&self, kind: ResourceType) -> &Have {
        &self.have[kind as usize]
    }

    fn knows_itself(&self) -> bool {
        true
    }
}

fn toggle(have: &mut Have, name: &str) -> bool {
    if have.names.remove(name) {
        have.contents.remove(name);
        have.versions.remove(name);
        return false;
    }
    have.names.insert(name.to_owned())
}

#[derive(Debug, Default)]
pub(super) struct DeltaClient {
    have: [Have; 4],
}

impl Client for DeltaClient {
    type Stream = Delta;

    fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        for have in &mut self.have {
            let claimed = |name: &&String| have.versions.contains_key(*name);
            have.unanswered = have.names.iter().filter(|name| !claimed(name)).cloned().collect();
        }
        ResourceType::ALL
            .map(|kind| DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: self.have[kind as usize].names.iter().cloned().collect(),
                initial_resource_versions: self.have[kind as usize]
                    .versions
                    .iter()
                    .map(|(name, (version, _))| (name.clone(), version.clone()))
                    .collect(),
                ..Default::default()
            })
            .to_vec()
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let kind = ResourceType::from_type_url(&response.type_url).unwrap();
        let have = &mut self.have[kind as usize];
        let wants = |have: &Have, name: &str| kind.is_full_state() || have.names.contains(name);
        for name in &response.removed_resources {
            have.contents.remove(name);
            have.unanswered.remove(name);
        }
        let mut rejected = false;
        for wire in &response.resources {
            let (name, content) = content(wire.resource.as_ref().unwrap());
            rejected |= is_bad(&content);
            have.unanswered.remove(&name);
            // Envoy applies the good part of a rejected group.
            if !is_bad(&content) && wants(have, &name) {
                have.contents.insert(name, content);
            }
        }
        if !rejected {
            // It remembers versions and removals only of what it accepts as a whole.
            for wire in response.resources {
                if wants(have, &wire.name) {
                    let (_, content) = content(wire.resource.as_ref().unwrap());
                    have.versions.insert(wire.name, (wire.version, content));
                }
            }
            for name in &response.removed_resources {
                have.versions.remove(name);
            }
        }
        DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: response.nonce,
            error_detail: if rejected { error("bad") } else { None },
            ..Default::default()
        }
    }

    fn toggle(&mut self, kind: ResourceType, name: &str) -> Option<DeltaDiscoveryRequest> {
        let have = &mut self.have[kind as usize];
        let subscribed = toggle(have, name);
        if subscribed {
            have.unanswered.insert(name.to_owned());
        } else {
            have.unanswered.remove(name);
        }
        let mut request =
            DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() };
        if subscribed {
            request.resource_names_subscribe.push(name.to_owned());
        } else {
            request.resource_names_unsubscribe.push(name.to_owned());
        }
        Some(request)
    }

    fn have(&self, kind: ResourceType) -> &Have {
        &self.have[kind as usize]
    }

    fn knows_itself(&self) -> bool {
        self.have.iter().all(|have| {
            let contents = have.contents.iter();
            contents.eq(have.versions.iter().map(|(name, (_, content))| (name, content)))
        })
    }
}

/// A client, a stream, and the two queues between them.
pub(super) struct Rig<C: Client> {
    pub(super) client: C,
    pub(super) stream: C::Stream,
    published: Option<World>,
    to_client: VecDeque<<C::Stream as Subscription>::Response>,
    pub(super) to_server: VecDeque<<C::Stream as Subscription>::Request>,
}

impl<C: Client> Rig<C> {
    pub(super) fn new() -> Self {
        let mut client = C::default();
        let to_server = client.connect().into();
        Self { client, stream: C::Stream::default(), published: None, to_client: VecDeque::new(), to_server }
    }

    pub(super) fn flush(&mut self) {
        while let Some(response) = self.stream.poll_response() {
            self.to_client.push_back(response);
        }
        // At most one unanswered response of each type.
        assert!(self.to_client.len() <= 4);
    }

    pub(super) fn deliver(&mut self) -> bool {
        let Some(response) = self.to_client.pop_front() else { return false };
        let request = self.client.receive(response);
        self.to_server.push_back(request);
        true
    }

    pub(super) fn reply(&mut self) -> bool {
        let Some(request) = self.to_server.pop_front() else { return false };
        self.stream.handle_request(request).unwrap();
        self.flush();
        true
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Publish(world) => {
                self.stream.handle_snapshot(publish(&world));
                self.published = Some(world);
                self.flush();
            }
            Event::Deliver => {
                self.deliver();
            }
            Event::Reply => {
                self.reply();
            }
            // A stream that breaks between the rejection of a group and its repetition in parts leaves what Envoy has
            // applied of the group unknown to both sides: Envoy's gap, which no server can close.
            Event::Reconnect if !self.client.knows_itself() => {}
            Event::Reconnect => {
                self.stream = C::Stream::default();
                if let Some(world) = &self.published {
                    self.stream.handle_snapshot(publish(world));
                }
                self.to_client.clear();
                self.to_server = self.client.connect().into();
            }
            Event::Toggle(endpoints, name) => {
                let kind = if endpoints { EDS } else { ECDS };
                self.to_server.extend(self.client.toggle(kind, NAMES[name]));
            }
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..PATIENCE {
            if !self.deliver() && !self.reply() {
                return;
            }
        }
        panic!("still talking");
    }

    /// The client has what was published, except for what it rejects; and the stream knows it.
    fn check(&self) {
        let Some(world) = self.published else { return };
        let snapshot = publish(&world);
        for (kind, contents) in ResourceType::ALL.into_iter().zip(world) {
            let have = self.client.have(kind);
            assert_eq!(have.unanswered, BTreeSet::new(), "{kind}");
            for (name, content) in NAMES.into_iter().zip(contents) {
                let verdict = verdict(&self.stream, &snapshot, kind, name);
                let has = have.contents.get(name);
                let wants = kind.is_full_state() || have.names.contains(name);
                match content {
                    _ if !wants => assert_eq!(has, None),
                    // Resources that are named are not removed in the state-of-the-world protocol.
                    0 if !kind.is_full_state() && self.is_sotw() => {}
                    0 => {
                        assert_eq!((has, &verdict), (None, &Verdict::Accepted), "{kind} {name}");
                    }
                    3 => assert!(matches!(verdict, Verdict::Rejected(_)), "{kind} {name} {verdict:?}"),
                    _ => {
                        assert_eq!(has, Some(&content.to_string()), "{kind} {name}");
                        assert_eq!(verdict, Verdict::Accepted, "{kind} {name}");
                    }
                }
            }
        }
    }

    fn is_sotw(&self) -> bool {
        std::any::type_name::<C>() == std::any::type_name::<SotwClient>()
    }
}

fn run<C: Client>(events: Vec<Event>) {
    let mut rig = Rig::<C>::new();
    rig.flush();
    for event in events {
        rig.apply(event);
    }
    rig.settle();
    rig.check();
}

fn any_event() -> impl Strategy<Value = Event> {
    let content = prop_oneof![2 => Just(0_u8), 3 => Just(1_u8), 2 => Just(2_u8), 1 => Just(3_u8)];
    let world = prop::array::uniform4(prop::array::uniform4(content));
    prop_oneof![
        3 => world.prop_map(Event::Publish),
        8 => Just(Event::Deliver),
        8 => Just(Event::Reply),
        1 => Just(Event::Reconnect),
        3 => (any::<bool>(), 0..NAMES.len()).prop_map(|(endpoints, name)| Event::Toggle(endpoints, name)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn state_of_the_world_converges(events in prop::collection::vec(any_event(), 0..80)) {
        run::<SotwClient>(events);
    }

    #[test]
    fn delta_converges(events in prop::collection::vec(any_event(), 0..80)) {
        run::<DeltaClient>(events);
    }
}
