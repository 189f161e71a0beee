//! What is made for a number of destinations, as `max_connect_attempts` is, has room for those that the client has, at any
//! moment of any sequence of changes.

use proptest::prelude::*;

use super::{
    model::{Client, DeltaClient, Rig, SotwClient},
    *,
};
use crate::snapshot::Content;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// For each name as many endpoints, and an extension configuration with room for them. Sometimes the cluster changes too.
type World = [(u32, bool); 3];

#[derive(Clone, Debug)]
enum Event {
    Publish(World),
    Deliver,
    Reply,
}

fn publish(world: &World) -> Snapshot {
    let of_name = |(name, (count, other)): (&str, &(u32, bool))| {
        ResourceType::ALL.map(|kind| {
            let text = match kind {
                CDS => other.to_string(),
                LDS => String::new(),
                EDS | ECDS => count.to_string(),
            };
            let (name, body) = resource(kind, name, &text);
            (name, Content { body, room: if kind == ECDS { *count } else { 0 } })
        })
    };
    NAMES.into_iter().zip(world).flat_map(of_name).collect()
}

fn run<C: Client>(first: &World, events: &[Event]) {
    let mut rig = Rig::<C>::new();
    for kind in [EDS, ECDS] {
        for name in NAMES {
            rig.to_server.extend(rig.client.toggle(kind, name));
        }
    }
    rig.stream.handle_snapshot(publish(first));
    rig.settle();
    for event in events {
        match event {
            Event::Publish(world) => {
                rig.stream.handle_snapshot(publish(world));
                rig.flush();
            }
            Event::Deliver => {
                rig.deliver();
                check(&rig.client);
            }
            Event::Reply => {
                rig.reply();
            }
        }
    }
    while rig.deliver() || rig.reply() {
        check(&rig.client);
    }
    let last = events.iter().rev().find_map(|event| match event {
        Event::Publish(world) => Some(world),
        _ => None,
    });
    for (name, (count, _)) in NAMES.iter().zip(last.unwrap_or(first)) {
        for kind in [EDS, ECDS] {
            assert_eq!(rig.client.have(kind).contents.get(*name), Some(&count.to_string()), "{kind} {name}");
        }
    }
}

fn check(client: &impl Client) {
    let number = |kind, name| client.have(kind).contents.get(name).map(|text| text.parse::<u32>().unwrap());
    for name in NAMES {
        let (endpoints, room) = (number(EDS, name), number(ECDS, name));
        assert!(room >= endpoints, "{name}: {endpoints:?} endpoints, room for {room:?}");
    }
}

fn any_world() -> impl Strategy<Value = World> {
    prop::array::uniform3((prop_oneof![Just(1_u32), Just(2), Just(4)], any::<bool>()))
}

fn any_events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![1 => any_world().prop_map(Event::Publish), 2 => Just(Event::Deliver), 2 => Just(Event::Reply)];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn destinations_have_room_in_the_state_of_the_world(first in any_world(), events in any_events()) {
        run::<SotwClient>(&first, &events);
    }

    #[test]
    fn destinations_have_room_in_the_incremental_protocol(first in any_world(), events in any_events()) {
        run::<DeltaClient>(&first, &events);
    }
}
