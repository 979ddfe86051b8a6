//! Which events a watcher gets, from the past and as they happen.

use std::task::{Context, Poll, Waker};

use super::*;

/// What a watcher has now.
fn taken(watch: &Watch) -> Vec<String> {
    let context = &mut Context::from_waker(Waker::noop());
    let mut taken = Vec::new();
    loop {
        match watch.poll_next(context) {
            Poll::Ready(Some(event)) => taken.push(show_event(&event)),
            Poll::Ready(None) => {
                taken.push("end".to_owned());
                return taken;
            }
            Poll::Pending => return taken,
        }
    }
}

/// (watched, recursive, stream), writes, what arrives.
type Case<'a> = ((&'a str, bool, bool), Vec<Write>, &'a [&'a str]);

#[test]
fn watchers_get_what_etcds_get() {
    let cases: Vec<Case<'_>> = vec![
        (
            ("/w", false, false),
            vec![set("/v", "1"), set("/w", "2"), set("/w", "3")],
            &["set /w=2@6/6", "end"],
        ),
        (
            ("/w", false, true),
            vec![set("/w", "2"), set("/w", "3")],
            &["set /w=2@5/5", "set /w=3@6/6 was /w=2@5/5"],
        ),
        (("/w", false, true), vec![set("/w/x", "1")], &[]),
        (("/w", true, true), vec![set("/w/x", "1"), set("/wx", "1")], &["set /w/x=1@5/5"]),
        (("/w", true, true), vec![set("/w/_x/y", "1"), set("/w/_z", "1")], &[]),
        (("/w/_x", true, true), vec![set("/w/_x/y", "1")], &["set /w/_x/y=1@5/5"]),
        (("/", true, true), vec![set("/a", "1"), set("/_b", "1")], &["set /a=1@5/5"]),
        (("/", false, true), vec![set("/a", "1")], &[]),
        // The end of a parent is told to watchers of what was there below it, once; to streams
        // of the removed node itself twice.
        (
            ("/seed/x", false, false),
            vec![delete("/seed", true, true)],
            &["delete /seed/@5/4 was /seed/@4/4", "end"],
        ),
        (("/seed/none", false, false), vec![delete("/seed", true, true)], &[]),
        (
            ("/seed", false, true),
            vec![delete("/seed", true, true)],
            &["delete /seed/@5/4 was /seed/@4/4", "delete /seed/@5/4 was /seed/@4/4"],
        ),
        (
            ("/w", false, true),
            vec![
                lasting(set("/w", "1"), 5),
                Write { refresh: true, ..lasting(set("/w", ""), 9) },
                update("/w", "2"),
            ],
            &["set /w=1@5/5 ttl 5", "update /w=2@7/6 was /w=1@6/6 ttl 9"],
        ),
    ];
    for ((path, recursive, stream), writes, want) in cases {
        let mut tree = Tree::default();
        tree.write(&set("/seed/x", "0")).unwrap();
        let watch = tree.watch(path.as_bytes(), recursive, stream, 0).unwrap();
        assert_eq!(watch.start_index(), 4);
        for write in &writes {
            tree.write(write).unwrap();
        }
        assert_eq!(taken(&watch), want, "{path} recursive {recursive} stream {stream}");
    }
}

#[test]
fn the_past_is_replayed_from_the_index_asked_for() {
    let mut tree = Tree::default();
    for write in [
        set("/a", "1"),
        set("/d/x", "1"),
        Write { refresh: true, ..lasting(set("/a", ""), 5) },
        delete("/d", true, true),
        set("/a", "2"),
    ] {
        tree.write(&write).unwrap();
    }
    let first = |path: &str, recursive, index| {
        let watch = tree.watch(path.as_bytes(), recursive, false, index).unwrap();
        taken(&watch).first().cloned().unwrap_or_default()
    };
    for (path, recursive, index, want) in [
        ("/a", false, 1, "set /a=1@4/4"),
        ("/a", false, 5, "set /a=2@8/8 was /a=1@6/6 ttl 5"),
        ("/", true, 5, "set /d/x=1@5/5"),
        ("/", false, 1, ""),
        ("/d/x", false, 6, "delete /d/@7/5 was /d/@5/5"),
        ("/d/none", false, 6, "delete /d/@7/5 was /d/@5/5"),
        ("/dx", false, 6, "delete /d/@7/5 was /d/@5/5"),
        ("/a", false, 9, ""),
    ] {
        assert_eq!(first(path, recursive, index), want, "{path} {recursive} {index}");
    }
    let stream = tree.watch(b"/a", false, true, 4).unwrap();
    tree.write(&set("/a", "3")).unwrap();
    assert_eq!(taken(&stream), ["set /a=1@4/4"], "as etcd: one event of the past, then silence");
}

#[test]
fn a_watch_of_the_future_waits_for_its_index() {
    let mut tree = Tree::default();
    let watch = tree.watch(b"/a", false, false, 6).unwrap();
    tree.write(&set("/a", "1")).unwrap();
    tree.write(&set("/a", "2")).unwrap();
    assert!(taken(&watch).is_empty());
    tree.write(&set("/a", "3")).unwrap();
    assert_eq!(taken(&watch), ["set /a=3@6/6 was /a=2@5/5", "end"]);
}

#[test]
fn only_so_many_events_are_kept() {
    let mut tree = Tree::default();
    for _ in 0..HISTORY_EVENTS_MAX {
        tree.write(&set("/a", "1")).unwrap();
    }
    assert_eq!(tree.history.events.len(), HISTORY_EVENTS_MAX);
    let error = tree.watch(b"/a", false, false, 3).unwrap_err();
    assert_eq!(show_answer(&Err(error)), "401 the requested history has been cleared [4/3] @1003");
    assert!(tree.watch(b"/a", false, false, 4).is_ok());
    let large = "x".repeat(HISTORY_BYTES_MAX / 4);
    for _ in 0..4 {
        tree.write(&set("/a", &large)).unwrap();
    }
    assert!(tree.history.events.len() < 4, "bounded by bytes too");
    assert_eq!(tree.history.events.keys().next(), Some(&tree.history.start));
}

#[test]
fn slow_many_and_orphaned_watchers_end() {
    let mut tree = Tree::default();
    let slow = tree.watch(b"/a", false, true, 0).unwrap();
    for _ in 0..101 {
        tree.write(&set("/a", "1")).unwrap();
    }
    let got = taken(&slow);
    assert_eq!((got.len(), got.last().map(String::as_str)), (101, Some("end")));
    drop(slow);

    let many: Vec<_> =
        (0..WATCHERS_MAX).map(|_| tree.watch(b"/a", false, false, 0).unwrap()).collect();
    let refused = tree.watch(b"/a", false, false, 0).unwrap_err();
    assert_eq!(refused.code, ErrorCode::RaftInternal);
    assert_eq!(tree.stats().watchers, WATCHERS_MAX);
    drop(many);
    assert_eq!(tree.stats().watchers, 0);
    assert!(!tree.hub.has_watchers(), "nothing is left of them");

    let orphan = tree.watch(b"/a", false, false, 0).unwrap();
    drop(tree);
    assert_eq!(taken(&orphan), ["end"]);
}
