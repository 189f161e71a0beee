use super::*;

const S: Duration = Duration::from_secs(1);

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn found(addresses: &[&str], ttl: u64) -> Family {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Family::Found { addresses, ttl: S * u32::try_from(ttl).unwrap() }
}

fn nxdomain() -> Answer {
    [Family::None("NXDOMAIN".to_owned()), Family::None("NXDOMAIN".to_owned())]
}

fn timeout() -> Family {
    Family::Failed("no answer".to_owned())
}

/// A schedule with one name, and a way to answer its lookups.
struct One {
    schedule: Schedule,
    now: Instant,
}

impl One {
    fn new() -> Self {
        let mut one = Self { schedule: Schedule::default(), now: Instant::now() };
        one.schedule.want(one.now, &names(&["db"]));
        one
    }

    /// Waits for the next lookup, answers it, and says how long the wait was and whether the addresses changed.
    fn answer(&mut self, answer: Answer) -> (Duration, bool) {
        let deadline = self.schedule.deadline().unwrap();
        let waited = deadline - self.now;
        if !waited.is_zero() {
            assert_eq!(self.schedule.next(deadline - Duration::from_millis(1)), None);
        }
        self.now = deadline;
        let question = self.schedule.next(self.now).unwrap();
        assert_eq!((self.schedule.next(self.now), self.schedule.deadline()), (None, None));
        (waited, self.schedule.answered(self.now, &question, answer))
    }

    fn addresses(&self) -> Vec<String> {
        let rule = "tcp:80:db:80".parse().unwrap();
        self.schedule.resolved().addresses(&rule).iter().map(ToString::to_string).collect()
    }

    fn trouble(&self) -> String {
        self.schedule.trouble(self.now).first().map(ToString::to_string).unwrap_or_default()
    }
}

#[test]
fn a_name_is_looked_up_at_once_and_again_when_its_records_expire() {
    let mut db = One::new();
    assert_eq!(db.trouble(), "unresolved: db: not looked up yet, next try in 0 s");
    assert!(!db.schedule.all_tried());
    let both = [found(&["100.64.0.2", "100.64.0.1", "100.64.0.2"], 30), found(&["fd00::1"], 20)];
    assert_eq!(db.answer(both.clone()), (Duration::ZERO, true));
    assert_eq!(db.addresses(), ["100.64.0.1", "100.64.0.2", "fd00::1"], "sorted, each once");
    assert_eq!((db.trouble(), db.schedule.all_tried()), (String::new(), true));
    assert_eq!(db.answer(both), (S * 20, false), "the shorter of two times to live; nothing new");
    assert_eq!(db.answer([found(&["100.64.0.9"], 0), Family::None("NODATA".to_owned())]), (S * 20, true));
    assert_eq!(db.addresses(), ["100.64.0.9"]);
    assert_eq!(db.answer([found(&["100.64.0.9"], 86_400), nxdomain()[1].clone()]), (MIN_TTL, false));
    assert_eq!(db.answer(nxdomain()).0, MAX_TTL);
}

#[test]
fn failures_are_repeated_ever_more_slowly_and_take_nothing_away() {
    let mut db = One::new();
    assert_eq!(db.answer(nxdomain()), (Duration::ZERO, false));
    assert_eq!(db.trouble(), "unresolved: db: NXDOMAIN, next try in 1 s");
    for wait in [1, 2, 4, 8, 10, 10] {
        assert_eq!(db.answer([timeout(), timeout()]).0, S * wait);
    }
    assert_eq!(db.trouble(), "unresolved: db: no answer, next try in 10 s");
    db.answer([found(&["100.64.0.1"], 60), found(&["fd00::1"], 60)]);
    assert_eq!(db.answer(nxdomain()), (S * 60, false));
    assert_eq!(db.addresses(), ["100.64.0.1", "fd00::1"]);
    assert_eq!(db.trouble(), "not refreshed: db: NXDOMAIN, so it stays 100.64.0.1, fd00::1, next try in 1 s");
    // After a success the first pause is the short one again; so it is here, where one family answers.
    assert_eq!(db.answer([found(&["100.64.0.2"], 60), timeout()]), (S, true));
    assert_eq!(db.addresses(), ["100.64.0.2", "fd00::1"], "the family that failed keeps what it had");
    assert_eq!(db.answer([found(&["100.64.0.2"], 60), nxdomain()[1].clone()]), (S * 2, true));
    assert_eq!((db.addresses(), db.trouble()), (vec!["100.64.0.2".to_owned()], String::new()));
}

/// Some name servers never answer for IPv6.
#[test]
fn one_family_is_enough() {
    let failed = || Family::Failed("server failure".to_owned());
    let mut db = One::new();
    assert_eq!(db.answer([found(&["100.64.0.1"], 300), failed()]), (Duration::ZERO, true));
    assert_eq!((db.addresses(), db.trouble()), (vec!["100.64.0.1".to_owned()], String::new()));
    assert_eq!(db.answer([found(&["100.64.0.1"], 3600), timeout()]), (S * 300, false));
    assert_eq!(db.trouble(), "");
    // The other one may be there again soon.
    assert_eq!(db.answer([timeout(), found(&["fd00::1"], 60)]), (S * 300, true));
    // What was found stays for a while, and it is said that it is not fresh.
    assert_eq!(db.addresses(), ["100.64.0.1", "fd00::1"]);
    assert!(
        db.trouble().starts_with("not refreshed: db: no answer, so it stays 100.64.0.1"),
        "{}",
        db.trouble()
    );
    while db.trouble() != "" {
        assert!(db.answer([timeout(), found(&["fd00::1"], 60)]).0 <= S * 10);
        assert_eq!(db.addresses().len(), if db.trouble() == "" { 1 } else { 2 });
    }
    assert_eq!(db.addresses(), ["fd00::1"]);
    assert_eq!(db.answer([timeout(), found(&["fd00::1"], 60)]), (S * 60, false));
    // With none found, everything stays, for as long as it takes.
    for _ in 0..1000 {
        assert!(!db.answer([timeout(), timeout()]).1);
    }
    assert_eq!(db.addresses(), ["fd00::1"]);
}

#[test]
fn the_addresses_of_a_name_are_bounded() {
    let mut db = One::new();
    let many: Vec<_> = (0..30).map(|n| format!("100.64.0.{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    db.answer([found(&many, 60), found(&["fd00::1"], 60)]);
    assert_eq!(db.addresses().len(), MAX_ADDRESSES);
    assert_eq!(db.schedule.names["db"].cut, 15);
}

#[test]
fn lookups_at_one_time_are_bounded_and_every_name_has_its_turn() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    let wanted: BTreeSet<_> = (0..100).map(|n| format!("host-{n}")).collect();
    schedule.want(now, &wanted);
    let mut asked = BTreeSet::new();
    let mut under_way = Vec::new();
    while asked.len() < 100 {
        while let Some(question) = schedule.next(now) {
            assert!(asked.insert(question.name.clone()));
            under_way.push(question);
        }
        assert!(under_way.len() <= MAX_LOOKUPS);
        assert!(schedule.deadline().is_none() || under_way.len() < MAX_LOOKUPS);
        schedule.answered(now, &under_way.pop().unwrap(), nxdomain());
    }
}

#[test]
fn a_name_that_went_away_is_forgotten_and_its_answer_too() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    schedule.want(now, &names(&["a", "b"]));
    let a = schedule.next(now).unwrap();
    schedule.want(now, &names(&[]));
    assert_eq!((schedule.next(now), schedule.deadline()), (None, None));
    schedule.want(now, &names(&["a"]));
    // Asked for again meanwhile: the old answer is not the new one's.
    let again = schedule.next(now).unwrap();
    assert_eq!(again.name, a.name);
    assert!(!schedule.answered(now, &a, [found(&["100.64.0.1"], 60), timeout()]));
    schedule.want(now, &names(&[]));
    assert!(!schedule.answered(now, &again, [found(&["100.64.0.1"], 60), timeout()]));
    assert_eq!(schedule.resolved(), ResolvedNames::default());
    assert_eq!(schedule.running, 0);
}

#[test]
fn a_change_of_the_resolver_asks_for_everything_again() {
    let mut db = One::new();
    db.answer([found(&["100.64.0.1"], 3000), timeout()]);
    db.now += S / 10;
    db.schedule.refresh(db.now);
    assert_eq!(db.answer([found(&["100.64.0.2"], 3000), nxdomain()[1].clone()]), (Duration::ZERO, true));
    // Also of what is under way: its answer is the old resolver's.
    db.now += S * 3000;
    let question = db.schedule.next(db.now).unwrap();
    db.schedule.refresh(db.now);
    assert!(!db.schedule.answered(db.now, &question, [found(&["100.64.0.7"], 60), timeout()]));
    assert_eq!(db.answer([found(&["100.64.0.3"], 60), timeout()]), (Duration::ZERO, true));
}
