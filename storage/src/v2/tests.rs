//! Expected answers are recorded ones of etcd 3.5.1, shifted to the first index.

mod model;
mod stored;
mod watching;

use bytes::Bytes;

use super::*;

const NOW: i64 = 1_700_000_000_000_000_000;
const S: i64 = 1_000_000_000;

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn write(key: &str, op: Op) -> Write {
    Write { key: b(key), op, expires_ns: None, refresh: false, now_ns: NOW }
}

fn set(key: &str, value: &str) -> Write {
    write(key, Op::Set { dir: false, value: b(value) })
}

fn make_dir(key: &str) -> Write {
    write(key, Op::Set { dir: true, value: Bytes::new() })
}

fn create(key: &str, unique: bool) -> Write {
    write(key, Op::Create { dir: false, value: b("c"), unique })
}

fn update(key: &str, value: &str) -> Write {
    write(key, Op::Update { value: b(value) })
}

fn delete(key: &str, dir: bool, recursive: bool) -> Write {
    write(key, Op::Delete { dir, recursive })
}

fn swap(key: &str, value: &str, prev: &str, index: u64) -> Write {
    let condition = Condition { value: b(prev), index };
    write(key, Op::CompareAndSwap { value: b(value), condition })
}

fn compare_delete(key: &str, prev: &str, index: u64) -> Write {
    write(key, Op::CompareAndDelete { condition: Condition { value: b(prev), index } })
}

fn lasting(write: Write, ttl_s: i64) -> Write {
    Write { expires_ns: Some(write.now_ns + ttl_s * S), ..write }
}

/// "/k=v@modified/created ttl 5", "/d/ [..]" for a directory.
fn show(node: &NodeView) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let mut shown = text(&node.key);
    if node.dir {
        shown.push('/');
    }
    if let Some(value) = &node.value {
        shown.push_str(&format!("={}", text(value)));
    }
    shown.push_str(&format!("@{}/{}", node.modified, node.created));
    if node.expires_ns.is_some() {
        shown.push_str(&format!(" ttl {}", node.ttl_s));
    }
    if !node.nodes.is_empty() {
        let nodes: Vec<_> = node.nodes.iter().map(show).collect();
        shown.push_str(&format!(" [{}]", nodes.join(", ")));
    }
    shown
}

fn show_event(event: &Event) -> String {
    let prev = event.prev.as_ref().map(|prev| format!(" was {}", show(prev))).unwrap_or_default();
    format!("{} {}{prev}", event.action.name(), show(&event.node))
}

fn show_answer(answer: &Result<Event, Error>) -> String {
    match answer {
        Ok(event) => show_event(event),
        Err(error) => {
            let cause = String::from_utf8_lossy(&error.cause);
            format!("{} {cause} @{}", error.code.describe().0, error.index)
        }
    }
}

/// Applies each write and compares what it answers.
fn check(cases: &[(Write, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (at, (write, want)) in cases.iter().enumerate() {
        let before = (tree.index(), tree.bytes(), tree.get(b"/", true, NOW).unwrap());
        let answer = tree.write(write);
        assert_eq!(show_answer(&answer), *want, "step {at}: {write:?}");
        if answer.is_err() {
            let after = (tree.index(), tree.bytes(), tree.get(b"/", true, NOW).unwrap());
            assert_eq!(after, before, "a refusal changes nothing: {write:?}");
        }
    }
    tree
}

fn listed(tree: &Tree, key: &str) -> String {
    show_answer(&tree.get(key.as_bytes(), true, NOW))
}

#[test]
fn paths_are_tidied() {
    for (raw, want) in [
        ("", "/"),
        ("/", "/"),
        ("a", "/a"),
        ("//a///b/", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/../..", "/"),
        ("/..a/...", "/..a/..."),
    ] {
        assert_eq!(path::clean(raw.as_bytes()), want, "{raw}");
    }
    let prefixes: Vec<_> = path::prefixes(b"/a/bc").collect();
    assert_eq!(prefixes, [&b"/"[..], b"/a", b"/a/bc"]);
    assert_eq!(path::prefixes(b"/").count(), 1);
    for (path, folder, want) in
        [("/a", "/", true), ("/a/b", "/a", true), ("/ab", "/a", false), ("/a", "/a", true)]
    {
        assert_eq!(path::is_within(path.as_bytes(), folder.as_bytes()), want, "{path} {folder}");
    }
}

#[test]
fn set_replaces_files_and_makes_folders() {
    let tree = check(&[
        (set("/a/b/c", "1"), "set /a/b/c=1@4/4"),
        (set("/a/b/c", "2"), "set /a/b/c=2@5/5 was /a/b/c=1@4/4"),
        (set("/a/b", "x"), "102 /a/b @5"),
        (make_dir("/a/b"), "102 /a/b @5"),
        (set("/a/b/c/d", "x"), "104 /a/b/c @5"),
        (make_dir("/a/b/c"), "set /a/b/c/@6/6 was /a/b/c=2@5/5"),
        (set("/", "x"), "107 / @6"),
        (make_dir("/"), "107 / @6"),
        (set("", "x"), "107 / @6"),
    ]);
    assert_eq!(listed(&tree, "/"), "get /@0/0 [/a/@4/4 [/a/b/@4/4 [/a/b/c/@6/6]]]");
    assert_eq!(listed(&tree, "/a/x/y"), "100 /a/x @6");
}

#[test]
fn create_refuses_what_is_there_and_numbers_unique_names() {
    check(&[
        (create("/k", false), "create /k=c@4/4"),
        (create("/k", false), "105 /k @4"),
        (create("/", false), "107 / @4"),
        (create("/q", true), "create /q/00000000000000000005=c@5/5"),
        (create("/", true), "create /00000000000000000006=c@6/6"),
        (create("/k", true), "104 /k @6"),
        (create("/k/x", false), "104 /k @6"),
    ]);
}

#[test]
fn update_keeps_the_creation_and_of_directories_all_but_the_deadline() {
    let tree = check(&[
        (update("/k", "1"), "100 /k @3"),
        (set("/k", "1"), "set /k=1@4/4"),
        (update("/k", "2"), "update /k=2@5/4 was /k=1@4/4"),
        (make_dir("/d"), "set /d/@6/6"),
        (update("/d", "x"), "102 /d @6"),
        (lasting(update("/d", ""), 5), "update /d/@7/6 ttl 5 was /d/@6/6"),
        (update("/", ""), "107 / @7"),
    ]);
    assert_eq!(listed(&tree, "/d"), "get /d/@6/6 ttl 5");
}

#[test]
fn compare_and_swap_tells_what_differs() {
    check(&[
        (swap("/k", "2", "1", 0), "100 /k @3"),
        (set("/k", "1"), "set /k=1@4/4"),
        (swap("/k", "2", "9", 0), "101 [9 != 1] @4"),
        (swap("/k", "2", "1", 9), "101 [9 != 4] @4"),
        (swap("/k", "2", "9", 9), "101 [9 != 1] [9 != 4] @4"),
        (swap("/k", "2", "1", 4), "compareAndSwap /k=2@5/4 was /k=1@4/4"),
        (swap("/k", "3", "", 5), "compareAndSwap /k=3@6/4 was /k=2@5/4"),
        (make_dir("/d"), "set /d/@7/7"),
        (swap("/d", "3", "1", 0), "102 /d @7"),
        (swap("/", "3", "1", 0), "107 / @7"),
        (compare_delete("/", "1", 0), "102  @7"),
        (compare_delete("/d", "1", 0), "102 /d @7"),
        (compare_delete("/k", "x", 0), "101 [x != 3] @7"),
        (compare_delete("/k", "3", 6), "compareAndDelete /k@8/4 was /k=3@6/4"),
        (compare_delete("/k", "3", 0), "100 /k @8"),
    ]);
}

#[test]
fn delete_asks_for_the_right_kind() {
    check(&[
        (delete("/k", false, false), "100 /k @3"),
        (set("/d/a", "1"), "set /d/a=1@4/4"),
        (delete("/d", false, false), "102 /d @4"),
        (delete("/d", true, false), "108 /d @4"),
        (delete("/d", false, true), "delete /d/@5/4 was /d/@4/4"),
        (set("/f", "1"), "set /f=1@6/6"),
        (delete("/f/x", false, false), "104 /f @6"),
        (delete("/f", true, true), "delete /f@7/6 was /f=1@6/6"),
        (delete("/", true, true), "107 / @7"),
        (make_dir("/e"), "set /e/@8/8"),
        (delete("/e", true, false), "delete /e/@9/8 was /e/@8/8"),
    ]);
}

#[test]
fn refresh_keeps_the_value() {
    let refresh = |write: Write| Write { refresh: true, ..lasting(write, 5) };
    check(&[
        (refresh(set("/k", "")), "100 /k @3"),
        (set("/k", "1"), "set /k=1@4/4"),
        (refresh(set("/k", "")), "set /k=1@5/5 ttl 5 was /k=1@4/4"),
        (refresh(update("/k", "")), "update /k=1@6/5 ttl 5 was /k=1@5/5 ttl 5"),
        (refresh(swap("/k", "", "1", 0)), "compareAndSwap /k=1@7/5 ttl 5 was /k=1@6/5 ttl 5"),
        (update("/k", "2"), "update /k=2@8/5 was /k=1@7/5 ttl 5"),
    ]);
}

#[test]
fn hidden_nodes_are_left_out_of_listings_alone() {
    let tree = check(&[
        (set("/h/_x/y", "1"), "set /h/_x/y=1@4/4"),
        (set("/h/z", "1"), "set /h/z=1@5/5"),
        (set("/h/z_", "1"), "set /h/z_=1@6/6"),
    ]);
    assert_eq!(listed(&tree, "/h"), "get /h/@4/4 [/h/z=1@5/5, /h/z_=1@6/6]");
    assert_eq!(listed(&tree, "/h/_x"), "get /h/_x/@4/4 [/h/_x/y=1@4/4]");
}

#[test]
fn remaining_seconds_are_rounded_up_and_odd_deadlines_follow_etcd() {
    for (left_ns, want) in
        [(5 * S, 5), (5 * S - 1, 5), (4 * S + 1, 5), (1, 1), (0, 0), (-1, 0), (-S, -1)]
    {
        assert_eq!(tree::ttl_s(Some(NOW + left_ns), NOW), want, "{left_ns}");
    }
    assert_eq!(tree::ttl_s(Some(i64::MIN), NOW), i64::MIN / S);
    let before_2000 = Some(EXPIRES_NS_MIN - 1);
    let mut tree = Tree::default();
    tree.write(&Write { expires_ns: before_2000, ..set("/made", "1") }).unwrap();
    assert_eq!(tree.next_deadline_ns(), None, "such a deadline means never");
    tree.write(&Write { expires_ns: before_2000, ..update("/made", "1") }).unwrap();
    assert_eq!(tree.next_deadline_ns(), before_2000, "an update takes any");
}

#[test]
fn expiry_goes_by_deadline_and_takes_directories_whole() {
    let mut tree = Tree::default();
    for write in [
        lasting(set("/late", "1"), 9),
        lasting(set("/b", "1"), 2),
        lasting(make_dir("/d"), 1),
        lasting(set("/d/x", "1"), 1),
        lasting(set("/d/y", "1"), 8),
        set("/stays", "1"),
    ] {
        tree.write(&write).unwrap();
    }
    tree.expire(NOW);
    assert_eq!((tree.index(), tree.next_deadline_ns()), (9, Some(NOW + S)));
    tree.expire(NOW + 3 * S);
    assert_eq!(listed(&tree, "/"), "get /@0/0 [/late=1@4/4 ttl 9, /stays=1@9/9]");
    assert_eq!((tree.index(), tree.next_deadline_ns()), (11, Some(NOW + 9 * S)));
    let events: Vec<_> = tree.history.events.range(10..).map(|(_, e)| show_event(e)).collect();
    assert_eq!(
        events,
        ["expire /d/@10/6 was /d/@6/6 ttl -2", "expire /b@11/5 was /b=1@5/5 ttl -1"]
    );
}

#[test]
fn keys_that_nest_too_deep_are_refused() {
    let mut tree = Tree::default();
    let deep = "/x".repeat(PATH_DEPTH_MAX + 1);
    let error = tree.write(&set(&deep, "1")).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidField);
    tree.write(&set(&deep[2..], "1")).unwrap();
    assert!(tree.write(&create(&deep[2..], true)).is_err());
    assert_eq!(tree.write(&delete("/x", true, true)).unwrap().node.modified, 5);
    assert_eq!((tree.bytes(), tree.nodes.len()), (0, 1));
}
