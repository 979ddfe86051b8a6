//! One test set for every engine.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// An engine that can be shut and opened again.
trait Bench {
    fn engine(&self) -> &dyn Engine;
    /// Syncs, closes and opens.
    fn reopen(&mut self);
}

struct InMemory(MemoryEngine);
impl Bench for InMemory {
    fn engine(&self) -> &dyn Engine {
        &self.0
    }
    fn reopen(&mut self) {
        self.0.sync().unwrap();
        self.0.crash();
    }
}

struct OnDisk {
    dir: tempfile::TempDir,
    engine: Option<SledEngine>,
}
impl OnDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Some(Self::open(dir.path()));
        Self { dir, engine }
    }
    fn open(dir: &std::path::Path) -> SledEngine {
        let options = SledOptions { cache_bytes: 1 << 20, ..SledOptions::default() };
        SledEngine::open(&dir.join("db"), &options).unwrap()
    }
}
impl Bench for OnDisk {
    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref().unwrap()
    }
    fn reopen(&mut self) {
        self.engine.take().unwrap().sync().unwrap();
        self.engine = Some(Self::open(self.dir.path()));
    }
}

fn both() -> [(&'static str, Box<dyn Bench>); 2] {
    [("memory", Box::new(InMemory(MemoryEngine::new()))), ("sled", Box::new(OnDisk::new()))]
}

fn batch(writes: &[(&str, Option<&str>)]) -> WriteBatch {
    let write = |(key, value): &(&str, Option<&str>)| {
        (key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()))
    };
    WriteBatch { writes: writes.iter().map(write).collect(), ..WriteBatch::default() }
}

fn text(pairs: Vec<(Bytes, Bytes)>) -> Vec<String> {
    let show = |(key, value): (Bytes, Bytes)| {
        format!("{}={}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value))
    };
    pairs.into_iter().map(show).collect()
}

#[test]
fn a_batch_is_applied_in_order_and_read_back() {
    for (name, bench) in both() {
        let engine = bench.engine();
        engine.write(batch(&[("a", Some("1")), ("b", Some("2")), ("a", Some("3"))])).unwrap();
        engine.write(batch(&[("b", None), ("c", Some("")), ("missing", None)])).unwrap();
        assert_eq!(engine.get(b"a").unwrap().unwrap(), "3", "{name}");
        assert_eq!(engine.get(b"b").unwrap(), None, "{name}");
        assert_eq!(engine.get(b"c").unwrap().unwrap(), "", "{name}");
        engine.write(WriteBatch::default()).unwrap();
    }
}

#[test]
fn a_scan_keeps_bounds_order_and_limit() {
    use Bound::{Excluded, Included, Unbounded};
    type Range = (Bound<&'static [u8]>, Bound<&'static [u8]>);
    let cases: [(Range, usize, &[&str]); 12] = [
        ((Unbounded, Unbounded), 9, &["a=1", "b=2", "ba=3", "c=4"]),
        ((Unbounded, Unbounded), 2, &["a=1", "b=2"]),
        ((Unbounded, Unbounded), 0, &[]),
        ((Included(b"b"), Excluded(b"c")), 9, &["b=2", "ba=3"]),
        ((Excluded(b"b"), Included(b"c")), 9, &["ba=3", "c=4"]),
        ((Included(b"b"), Included(b"b")), 9, &["b=2"]),
        ((Included(b"b"), Excluded(b"b")), 9, &[]),
        ((Excluded(b"b"), Excluded(b"b")), 9, &[]),
        ((Excluded(b"b"), Included(b"b")), 9, &[]),
        ((Included(b"c"), Included(b"a")), 9, &[]),
        ((Unbounded, Excluded(b"")), 9, &[]),
        ((Excluded(b"c"), Unbounded), 9, &[]),
    ];
    for (name, bench) in both() {
        let engine = bench.engine();
        let writes = [("c", Some("4")), ("ba", Some("3")), ("a", Some("1")), ("b", Some("2"))];
        engine.write(batch(&writes)).unwrap();
        for (range, limit, want) in cases {
            let got = text(engine.scan(range, limit).unwrap());
            assert_eq!(got, want, "{name} {range:?} limit {limit}");
        }
    }
}

#[test]
fn the_last_pair_at_or_below_a_key_is_found() {
    let cases = [("a", None), ("b", Some("b=1")), ("c", Some("b=1")), ("da", Some("d=2"))];
    for (name, bench) in both() {
        let engine = bench.engine();
        assert!(engine.last_at_or_below(b"z").unwrap().is_none(), "{name}: empty");
        engine.write(batch(&[("b", Some("1")), ("d", Some("2"))])).unwrap();
        for (key, want) in cases {
            let got = text(engine.last_at_or_below(key.as_bytes()).unwrap().into_iter().collect());
            assert_eq!(got.first().map(String::as_str), want, "{name} {key}");
        }
    }
}

#[test]
fn a_cleared_engine_is_empty_stays_empty_and_takes_new_pairs() {
    for (name, mut bench) in both() {
        let many = (0..2000).map(|n: u32| (n.to_be_bytes().to_vec(), Some(vec![7; 200])));
        bench
            .engine()
            .write(WriteBatch { writes: many.collect(), ..WriteBatch::default() })
            .unwrap();
        bench.engine().clear().unwrap();
        let everything = (Bound::Unbounded, Bound::Unbounded);
        assert!(bench.engine().scan(everything, 9).unwrap().is_empty(), "{name}");
        bench.reopen();
        assert!(bench.engine().scan(everything, 9).unwrap().is_empty(), "{name}: reopened");
        bench.engine().write(batch(&[("new", Some("1"))])).unwrap();
        bench.reopen();
        assert_eq!(text(bench.engine().scan(everything, 9).unwrap()), ["new=1"], "{name}");
    }
}

/// `count` pairs to append, of `bytes` each.
fn appends(count: u32, bytes: usize) -> Vec<(Vec<u8>, Bytes)> {
    let pair = |n: u32| {
        let fill = u8::try_from(n % 251).unwrap();
        ([b"h", &n.to_be_bytes()[..]].concat(), Bytes::from(vec![fill; bytes]))
    };
    (0..count).map(pair).collect()
}

#[test]
fn appended_pairs_are_read_like_others() {
    for (name, mut bench) in both() {
        bench.engine().write(batch(&[("a", Some("1")), ("z", Some("2"))])).unwrap();
        let appends = appends(100, 3000);
        for part in appends.chunks(40) {
            let writes = vec![(b"mark".to_vec(), Some(part[0].0.clone()))];
            bench.engine().write(WriteBatch { writes, appends: part.to_vec() }).unwrap();
        }
        for round in ["written", "reopened"] {
            let engine = bench.engine();
            let range = (Bound::Included(&b"h"[..]), Bound::Excluded(&b"i"[..]));
            let found: Vec<_> = engine
                .scan(range, 1000)
                .unwrap()
                .into_iter()
                .map(|(k, v)| (k.to_vec(), v))
                .collect();
            assert!(found == appends, "{name} {round}");
            let (key, value) = &appends[77];
            assert!(engine.get(key).unwrap().as_ref() == Some(value), "{name} {round}");
            let last = engine.last_at_or_below(b"i").unwrap().unwrap().0;
            assert_eq!(last, appends[99].0, "{name} {round}");
            assert_eq!(engine.get(b"mark").unwrap().unwrap(), appends[80].0, "{name} {round}");
            bench.reopen();
        }
    }
}

#[test]
fn what_a_crash_leaves_of_places_is_not_there() {
    let mut bench = OnDisk::new();
    bench.engine().write(batch(&[("a", Some("1"))])).unwrap();
    let appends = appends(100, 3000);
    // As if the process had ended between the places and their batch.
    bench.engine.as_ref().unwrap().make_places(&appends).unwrap();
    bench.reopen();
    let engine = bench.engine();
    let everything = (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(text(engine.scan(everything, 9).unwrap()), ["a=1"]);
    assert_eq!(engine.get(&appends[5].0).unwrap(), None);
    assert_eq!(text(engine.last_at_or_below(b"z").unwrap().into_iter().collect()), ["a=1"]);
    // What comes after the restart may be packed in another way.
    let others: Vec<_> = appends.iter().skip(1).step_by(2).cloned().collect();
    engine.write(WriteBatch { appends: others.clone(), ..WriteBatch::default() }).unwrap();
    assert_eq!(engine.scan(everything, 1000).unwrap().len(), 1 + others.len());
    assert!(engine.get(&others[7].0).unwrap().as_ref() == Some(&others[7].1));
    engine.clear().unwrap();
    assert!(engine.scan(everything, 9).unwrap().is_empty());
}

#[test]
fn a_pair_that_is_there_is_not_lost_to_a_place() {
    let bench = OnDisk::new();
    let appends = appends(100, 3000);
    let there = ([&appends[50].0[..], b"x"].concat(), Some(b"kept".to_vec()));
    bench
        .engine()
        .write(WriteBatch { writes: vec![there.clone()], ..WriteBatch::default() })
        .unwrap();
    bench.engine().write(WriteBatch { appends, ..WriteBatch::default() }).unwrap();
    assert_eq!(bench.engine().get(&there.0).unwrap().unwrap(), "kept");
}

#[test]
fn large_appended_values_are_not_moved_about() {
    let bench = OnDisk::new();
    let appends = appends(4096, 7 << 10);
    let bytes: usize = appends.iter().map(|(_, value)| value.len()).sum();
    for part in appends.chunks(512) {
        let part = WriteBatch { appends: part.to_vec(), ..WriteBatch::default() };
        bench.engine().write(part).unwrap();
    }
    bench.engine().sync().unwrap();
    let on_disk = usize::try_from(bench.engine().size_bytes().unwrap()).unwrap();
    // 1.55 without places.
    assert!(on_disk < bytes * 14 / 10, "{on_disk} bytes on disk for {bytes}");
}

#[test]
fn synced_pairs_outlive_the_process() {
    for (name, mut bench) in both() {
        bench.engine().write(batch(&[("a", Some("1")), ("b", Some("2"))])).unwrap();
        bench.reopen();
        bench.engine().write(batch(&[("a", None)])).unwrap();
        bench.reopen();
        let pairs = bench.engine().scan((Bound::Unbounded, Bound::Unbounded), 9).unwrap();
        assert_eq!(text(pairs), ["b=2"], "{name}");
        assert!(bench.engine().size_bytes().unwrap() > 0, "{name}");
    }
}

#[test]
fn a_crash_of_the_memory_engine_keeps_exactly_what_was_synced() {
    let engine = MemoryEngine::new();
    engine.write(batch(&[("a", Some("1")), ("b", Some("2"))])).unwrap();
    engine.sync().unwrap();
    engine.write(batch(&[("a", Some("other")), ("b", None), ("c", Some("3"))])).unwrap();
    engine.write(batch(&[("c", None), ("d", Some("4"))])).unwrap();
    engine.crash();
    let pairs = engine.scan((Bound::Unbounded, Bound::Unbounded), 9).unwrap();
    assert_eq!(text(pairs), ["a=1", "b=2"]);
    assert_eq!(engine.size_bytes().unwrap(), 4);
}

#[test]
fn a_second_opener_of_a_sled_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = SledEngine::open(dir.path(), &SledOptions::default()).unwrap();
    let second = SledEngine::open(dir.path(), &SledOptions::default());
    assert!(matches!(second, Err(Error::Engine { .. })), "{second:?}");
    drop(first);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u8, Option<u8>)>),
    Clear,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = proptest::collection::vec((0..40_u8, any::<Option<u8>>()), 0..12);
    let step = prop_oneof![
        12 => write.prop_map(Step::Write),
        1 => Just(Step::Clear),
        2 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn engines_agree_with_an_ordered_map(steps in steps()) {
        for (name, mut bench) in both() {
            let mut model = BTreeMap::<Vec<u8>, Vec<u8>>::new();
            for step in &steps {
                match step {
                    Step::Write(writes) => {
                        let mut batch = WriteBatch::default();
                        for &(key, value) in writes {
                            let (key, value) = (vec![key], value.map(|value| vec![value; 50]));
                            batch.writes.push((key.clone(), value.clone()));
                            match value {
                                Some(value) => model.insert(key, value),
                                None => model.remove(&key),
                            };
                        }
                        bench.engine().write(batch).unwrap();
                    }
                    Step::Clear => {
                        bench.engine().clear().unwrap();
                        model.clear();
                    }
                    Step::Reopen => bench.reopen(),
                }
                let all = bench.engine().scan((Bound::Unbounded, Bound::Unbounded), 100).unwrap();
                let all: Vec<_> = all.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                let want: Vec<_> = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(all, want, "{}", name);
                for key in 0..41_u8 {
                    let got = bench.engine().last_at_or_below(&[key]).unwrap();
                    let want = model.range(..=vec![key]).next_back();
                    prop_assert_eq!(
                        got.map(|(k, v)| (k.to_vec(), v.to_vec())),
                        want.map(|(k, v)| (k.clone(), v.clone())),
                        "{} at {}", name, key
                    );
                }
            }
        }
    }
}
