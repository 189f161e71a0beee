#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::*;

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

fn json_of(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("state.json")).unwrap()).unwrap()
}

#[test]
fn rules_survive_in_upstreams_schema() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let (mut state, mut rules) = StateFile::open(&directory).unwrap();
    assert_eq!(rules, StoredRules::default());
    rules.add(Direction::Ingress, rule("tcp:443:10.10.100.152:8443"));
    rules.add(Direction::Ingress, rule("tcp:443:10.10.100.152:8443"));
    state.save(&rules).unwrap();
    assert_eq!(
        json_of(&directory),
        json!({"proxy-rules-config": {"egress": null, "ingress": ["tcp:443:10.10.100.152:8443"]}})
    );
    rules.add(Direction::Egress, rule("tcp:80:[fd00::2]:80"));
    state.save(&rules).unwrap();
    drop(state);

    let (mut state, loaded) = StateFile::open(&directory).unwrap();
    assert_eq!(loaded.iter().len(), 2);
    assert!(loaded.contains(Direction::Egress, &rule("tcp:80:[fd00::2]:80")));
    let mut empty = loaded;
    assert!(empty.remove(Direction::Ingress, &rule("tcp:443:10.10.100.152:8443")));
    assert!(!empty.remove(Direction::Ingress, &rule("tcp:443:10.10.100.152:8443")));
    assert!(empty.remove(Direction::Egress, &rule("tcp:80:[fd00::2]:80")));
    state.save(&empty).unwrap();
    assert_eq!(json_of(&directory), json!({"proxy-rules-config": {"egress": null, "ingress": null}}));
}

/// The file may be on a volume that outlives the directory.
#[test]
fn a_symbolic_link_stays_and_what_it_leads_to_is_written() {
    use std::os::unix::fs::symlink;
    let parent = tempfile::tempdir().unwrap();
    let (directory, volume) = (parent.path().join("state"), parent.path().join("volume"));
    fs::create_dir(&directory).unwrap();
    fs::create_dir(&volume).unwrap();
    symlink("../volume/other.json", directory.join("state.json")).unwrap();
    symlink("rules.json", volume.join("other.json")).unwrap();
    let (mut state, mut rules) = StateFile::open(&directory).unwrap();
    rules.add(Direction::Ingress, rule("tcp:443:10.10.100.152:8443"));
    state.save(&rules).unwrap();
    drop(state);
    assert!(directory.join("state.json").is_symlink() && volume.join("other.json").is_symlink());
    assert!(volume.join("rules.json").is_file());
    assert_eq!(StateFile::open(&directory).unwrap().1, rules);

    symlink("loop.json", directory.join("loop.json")).unwrap();
    assert!(followed(directory.join("loop.json")).unwrap_err().to_string().contains("symbolic links"));
}

#[test]
fn options_are_stored_with_their_rule_and_do_not_make_another() {
    let directory = tempfile::tempdir().unwrap();
    let (mut state, mut rules) = StateFile::open(directory.path()).unwrap();
    rules.add(Direction::Egress, rule("tcp:80:100.64.0.2:80,weight=2"));
    rules.add(Direction::Egress, rule("tcp:80:100.64.0.2:80,bind=127.0.0.1"));
    rules.add(Direction::Egress, rule("tcp:80:100.64.0.2:80, weight=3,connect-timeout=2000ms"));
    state.save(&rules).unwrap();
    drop(state);
    let texts =
        json!(["tcp:80:100.64.0.2:80,weight=3,connect-timeout=2s", "tcp:80:100.64.0.2:80,bind=127.0.0.1"]);
    assert_eq!(json_of(directory.path())["proxy-rules-config"]["egress"], texts);
    let (_state, mut loaded) = StateFile::open(directory.path()).unwrap();
    assert_eq!(loaded, rules);
    assert!(loaded.remove(Direction::Egress, &rule("tcp:80:100.64.0.2:80,weight=9")));
    assert_eq!(loaded.iter().len(), 1);
}

#[test]
fn directory_and_file_are_for_the_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state");
    let (mut state, rules) = StateFile::open(&directory).unwrap();
    fs::write(directory.join("state.json.tmp"), "left behind by a killed writer").unwrap();
    state.save(&rules).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("state.json")), 0o600);
    assert!(!directory.join("state.json.tmp").exists());
}

#[test]
fn keys_of_other_programs_stay() {
    let directory = tempfile::tempdir().unwrap();
    let original = json!({
        "auth-token": {"access_token": "a"}, "public-key": "p", "private-key": "q", "port": 51820, "later": [1],
        "proxy-rules-config": {"egress": ["udp:53:10.0.0.1:53"], "ingress": null, "order": "kept"},
    });
    fs::write(directory.path().join("state.json"), original.to_string()).unwrap();
    let (mut state, mut rules) = StateFile::open(directory.path()).unwrap();
    rules.add(Direction::Ingress, rule("tcp:1:h:1"));
    state.save(&rules).unwrap();
    let mut expected = original;
    expected["proxy-rules-config"]["ingress"] = json!(["tcp:1:h:1"]);
    assert_eq!(json_of(directory.path()), expected);
}

#[test]
fn files_of_other_shapes_are_refused_and_left_alone() {
    let cases = [
        ("", "it is not JSON"),
        ("{\"private-key\": \"SECRET\"", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("{\"proxy-rules-config\": {\"egress\": 5}}", "`proxy-rules-config` cannot be read"),
        (
            "{\"proxy-rules-config\": {\"egress\": [\"tcp:1\"]}}",
            "egress rule (tcp:1): invalid proxy rule format",
        ),
    ];
    for (text, reason) in cases {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.json");
        fs::write(&file, text).unwrap();
        let error = StateFile::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(
            error.contains("state.json") && !error.contains('\n') && !error.contains("SECRET"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    for text in ["{}", "{\"proxy-rules-config\": null}", "{\"proxy-rules-config\": {}}"] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("state.json"), text).unwrap();
        assert_eq!(StateFile::open(directory.path()).unwrap().1.iter().len(), 0);
    }
}

#[test]
fn a_second_node_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = StateFile::open(directory.path()).unwrap();
    let error = StateFile::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    assert!(error.contains("--state-dir"), "{error}");
    drop(first);
    StateFile::open(directory.path()).unwrap();
}
