//! Random changes on the tree and on a naive list of nodes: the same answers and contents.

use proptest::prelude::*;

use super::*;

/// One node, by its path.
#[derive(Clone, Debug, PartialEq)]
struct Naive {
    path: String,
    /// `None`: a directory.
    value: Option<String>,
    modified: u64,
    created: u64,
    expires: Option<i64>,
}

/// All nodes in a list; every question is a search through it.
#[derive(Clone, Debug, Default)]
struct Model {
    nodes: Vec<Naive>,
    index: u64,
}

type Answer = Result<(Option<Naive>, Option<Naive>), u16>;

impl Model {
    fn at(&self, path: &str) -> Option<&Naive> {
        self.nodes.iter().find(|node| node.path == path)
    }

    fn look(&self, path: &str) -> Result<Naive, u16> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        for upto in 1..=parts.len() {
            let prefix = format!("/{}", parts[..upto].join("/"));
            match self.at(&prefix) {
                None => return Err(100),
                Some(node) if upto < parts.len() && node.value.is_some() => return Err(104),
                Some(_) => {}
            }
        }
        Ok(self.at(path).unwrap().clone())
    }

    fn drop_tree(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|node| node.path != path && !node.path.starts_with(&below));
    }

    fn add(
        &mut self,
        path: &str,
        value: Option<String>,
        expires: Option<i64>,
    ) -> Result<Naive, u16> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let mut missing = Vec::new();
        for upto in 1..parts.len() {
            let prefix = format!("/{}", parts[..upto].join("/"));
            match self.at(&prefix) {
                Some(node) if node.value.is_some() => return Err(104),
                Some(_) => {}
                None => missing.push((prefix, None, None)),
            }
        }
        missing.push((path.to_owned(), value, expires));
        for (path, value, expires) in missing {
            let (modified, created) = (self.index + 1, self.index + 1);
            self.nodes.push(Naive { path, value, modified, created, expires });
        }
        Ok(self.nodes.last().unwrap().clone())
    }

    fn rewrite(&mut self, path: &str, write: &Write, value: &str) -> (Naive, Naive) {
        let index = self.index + 1;
        let node = self.nodes.iter_mut().find(|node| node.path == path).unwrap();
        let before = node.clone();
        if let Some(old) = &mut node.value {
            if !write.refresh {
                value.clone_into(old);
            }
            node.modified = index;
        }
        node.expires = write.expires_ns;
        (Naive { modified: index, ..node.clone() }, before)
    }

    fn write(&mut self, write: &Write) -> Answer {
        let path = std::str::from_utf8(&write.key).unwrap();
        let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
        let holds = |node: &Naive, condition: &Condition| {
            let value = node.value.clone().ok_or(102_u16)?;
            let ok = (condition.value.is_empty() || text(&condition.value) == value)
                && (condition.index == 0 || condition.index == node.modified);
            if ok { Ok(()) } else { Err(101_u16) }
        };
        let answer = match &write.op {
            Op::Set { dir, value } => {
                let old = match self.look(path) {
                    Err(100) if !write.refresh => None,
                    found => Some(found?),
                };
                let mut value = text(value);
                if let Some(old) = &old {
                    let old = old.value.clone().ok_or(102_u16)?;
                    if write.refresh {
                        value = old;
                    }
                    self.drop_tree(path);
                }
                (self.add(path, (!dir).then_some(value), write.expires_ns)?, old)
            }
            Op::Create { dir, value, unique } => {
                let path =
                    if *unique { format!("{path}/{:020}", self.index + 1) } else { path.into() };
                if self.look(&path).is_ok() {
                    return Err(105);
                }
                (self.add(&path, (!dir).then(|| text(value)), write.expires_ns)?, None)
            }
            Op::Update { value } => {
                if self.look(path)?.value.is_none() && !value.is_empty() {
                    return Err(102);
                }
                let (new, old) = self.rewrite(path, write, &text(value));
                (new, Some(old))
            }
            Op::CompareAndSwap { value, condition } => {
                holds(&self.look(path)?, condition)?;
                let (new, old) = self.rewrite(path, write, &text(value));
                (new, Some(old))
            }
            Op::Delete { dir, recursive } => {
                let old = self.look(path)?;
                let below = format!("{path}/");
                let is_full = self.nodes.iter().any(|node| node.path.starts_with(&below));
                if old.value.is_none() && !dir && !recursive {
                    return Err(102);
                }
                if is_full && !recursive {
                    return Err(108);
                }
                self.drop_tree(path);
                (Naive { value: None, modified: self.index + 1, ..old.clone() }, Some(old))
            }
            Op::CompareAndDelete { condition } => {
                let old = self.look(path)?;
                holds(&old, condition)?;
                self.drop_tree(path);
                (Naive { value: None, modified: self.index + 1, ..old.clone() }, Some(old))
            }
        };
        self.index += 1;
        Ok((Some(answer.0), answer.1))
    }

    fn expire(&mut self, cutoff: i64) {
        loop {
            let due = self.nodes.iter().filter_map(|node| Some((node.expires?, node.path.clone())));
            let Some((expires, path)) = due.min() else { return };
            if expires > cutoff {
                return;
            }
            self.drop_tree(&path);
            self.index += 1;
        }
    }

    fn sorted(&self) -> Vec<Naive> {
        let mut nodes = self.nodes.clone();
        nodes.sort_by(|a, b| a.path.cmp(&b.path));
        nodes
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn naive(view: &NodeView) -> Naive {
    Naive {
        path: text(&view.key),
        value: view.value.as_ref().map(text),
        modified: view.modified,
        created: view.created,
        expires: view.expires_ns,
    }
}

/// The contents as listings show them; keys of the test are not hidden.
fn contents(tree: &Tree) -> Vec<Naive> {
    fn walk(view: &NodeView, all: &mut Vec<Naive>) {
        for node in &view.nodes {
            all.push(naive(node));
            walk(node, all);
        }
    }
    let mut all = Vec::new();
    walk(&tree.get(b"/", true, NOW).unwrap().node, &mut all);
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

pub(super) fn any_write() -> impl Strategy<Value = Write> {
    let key = "(/[ab-]){1,3}";
    let value = prop::sample::select(vec!["", "1", "2"]).prop_map(b);
    let condition = (prop::sample::select(vec!["", "1", "2"]).prop_map(b), 0_u64..20)
        .prop_map(|(value, index)| Condition { value, index: index.saturating_sub(8) });
    let op = prop_oneof![
        6 => (prop::bool::weighted(0.2), value.clone())
            .prop_map(|(dir, value)| Op::Set { dir, value }),
        2 => (any::<bool>(), value.clone(), prop::bool::weighted(0.3))
            .prop_map(|(dir, value, unique)| Op::Create { dir, value, unique }),
        2 => value.clone().prop_map(|value| Op::Update { value }),
        2 => (value, condition.clone())
            .prop_map(|(value, condition)| Op::CompareAndSwap { value, condition }),
        2 => (any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(dir, recursive)| Op::Delete { dir, recursive }),
        1 => condition.prop_map(|condition| Op::CompareAndDelete { condition }),
    ];
    let expires = prop::option::weighted(0.3, 1..20_i64);
    (key, op, expires, prop::bool::weighted(0.1)).prop_map(|(key, op, expires, refresh)| Write {
        key: key.into(),
        op,
        expires_ns: expires.map(|s| NOW + s * S),
        refresh,
        now_ns: NOW,
    })
}

pub(super) fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => any_write().prop_map(Change::Write),
        1 => (0..20_i64).prop_map(|s| Change::Expire { cutoff_ns: NOW + s * S }),
    ]
}

proptest! {
    #[test]
    fn the_tree_does_what_a_list_of_nodes_would(
        changes in prop::collection::vec(any_change(), 1..60),
    ) {
        let mut tree = Tree::default();
        let mut model = Model { index: FIRST_INDEX, ..Model::default() };
        for change in &changes {
            match change {
                Change::Expire { cutoff_ns } => {
                    tree.expire(*cutoff_ns);
                    model.expire(*cutoff_ns);
                }
                Change::Write(write) => {
                    let got = tree.write(write);
                    let got = got.map(|event| {
                        (Some(naive(&event.node)), event.prev.as_ref().map(naive))
                    });
                    let got = got.map_err(|error| error.code.describe().0);
                    let mut want = model.write(write);
                    let is_end =
                        matches!(write.op, Op::Delete { .. } | Op::CompareAndDelete { .. });
                    if let Ok((Some(node), _)) = &mut want && is_end {
                        node.expires = None;
                    }
                    prop_assert_eq!(got, want, "{:?}", write);
                }
            }
            prop_assert_eq!(tree.index(), model.index);
            prop_assert_eq!(contents(&tree), model.sorted());
            let due = model.nodes.iter().filter_map(|node| node.expires).min();
            prop_assert_eq!(tree.next_deadline_ns(), due);
        }
        for at in FIRST_INDEX + 1..=tree.index() {
            prop_assert!(tree.history.events.contains_key(&at), "every index has its event");
        }
    }
}
