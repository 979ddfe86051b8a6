//! A map keyed by half-open intervals of byte strings that finds all intervals around a point.
//!
//! A treap by (start, end): each node also knows the greatest end below it, so that a search
//! leaves out whole subtrees. Priorities come from a counter through a mixing function: the
//! shape is as good as random and the same in every run.

use std::cmp::Ordering;

/// Index of a node.
type Link = Option<usize>;

#[derive(Debug)]
struct Node<V> {
    start: Box<[u8]>,
    /// Exclusive; `None` is above everything.
    end: Option<Box<[u8]>>,
    /// The node of this subtree with the greatest end.
    furthest: usize,
    priority: u64,
    left: Link,
    right: Link,
    value: V,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct IntervalMap<V> {
    nodes: Vec<Node<V>>,
    free: Vec<usize>,
    root: Link,
    made: u64,
}

impl<V> Default for IntervalMap<V> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: None, made: 0 }
    }
}

impl<V: Default> IntervalMap<V> {
    /// The value of an interval, made where there is none.
    pub(crate) fn get_or_default(&mut self, start: &[u8], end: Option<&[u8]>) -> &mut V {
        let at = match self.find(start, end) {
            Some(at) => at,
            None => self.add(start, end),
        };
        &mut self.nodes[at].value
    }

    fn find(&self, start: &[u8], end: Option<&[u8]>) -> Link {
        let mut link = self.root;
        while let Some(at) = link {
            let node = &self.nodes[at];
            link = match compare((start, end), (&node.start, node.end.as_deref())) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(at),
            };
        }
        None
    }

    fn add(&mut self, start: &[u8], end: Option<&[u8]>) -> usize {
        self.made += 1;
        let node = |furthest| Node {
            start: Box::from(start),
            end: end.map(Box::from),
            furthest,
            priority: mix(self.made),
            left: None,
            right: None,
            value: V::default(),
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at] = node(at);
                at
            }
            None => {
                self.nodes.push(node(self.nodes.len()));
                self.nodes.len() - 1
            }
        };
        let (left, right) = self.split(self.root, start, end);
        let left = self.merge(left, Some(at));
        self.root = self.merge(left, right);
        at
    }

    /// Removes an interval.
    pub(crate) fn remove(&mut self, start: &[u8], end: Option<&[u8]>) {
        let Some(at) = self.find(start, end) else { return };
        self.root = self.without(self.root, at);
        let node = &mut self.nodes[at];
        node.value = V::default();
        (node.start, node.end) = (Box::default(), None);
        self.free.push(at);
    }

    fn without(&mut self, link: Link, target: usize) -> Link {
        let at = link?;
        if at == target {
            return self.merge(self.nodes[at].left, self.nodes[at].right);
        }
        let (node, wanted) = (&self.nodes[at], &self.nodes[target]);
        let order =
            compare((&wanted.start, wanted.end.as_deref()), (&node.start, node.end.as_deref()));
        if order == Ordering::Less {
            self.nodes[at].left = self.without(self.nodes[at].left, target);
        } else {
            self.nodes[at].right = self.without(self.nodes[at].right, target);
        }
        self.update(at);
        Some(at)
    }

    /// Calls `each` for every interval around `point`.
    pub(crate) fn stab(&self, point: &[u8], each: &mut impl FnMut(&V)) {
        self.stab_from(self.root, point, each);
    }

    fn stab_from(&self, mut link: Link, point: &[u8], each: &mut impl FnMut(&V)) {
        while let Some(at) = link {
            let node = &self.nodes[at];
            if !is_above(self.nodes[node.furthest].end.as_deref(), point) {
                return;
            }
            self.stab_from(node.left, point, each);
            if &node.start[..] > point {
                return;
            }
            if is_above(node.end.as_deref(), point) {
                each(&node.value);
            }
            link = node.right;
        }
    }

    /// Nodes below (start, end), and the others.
    fn split(&mut self, link: Link, start: &[u8], end: Option<&[u8]>) -> (Link, Link) {
        let Some(at) = link else { return (None, None) };
        let node = &self.nodes[at];
        if compare((&node.start, node.end.as_deref()), (start, end)) == Ordering::Less {
            let (left, right) = self.split(node.right, start, end);
            self.nodes[at].right = left;
            self.update(at);
            (Some(at), right)
        } else {
            let (left, right) = self.split(node.left, start, end);
            self.nodes[at].left = right;
            self.update(at);
            (left, Some(at))
        }
    }

    /// Joins two trees, all of `left` below all of `right`.
    fn merge(&mut self, left: Link, right: Link) -> Link {
        let (Some(a), Some(b)) = (left, right) else { return left.or(right) };
        if self.nodes[a].priority > self.nodes[b].priority {
            self.nodes[a].right = self.merge(self.nodes[a].right, right);
            self.update(a);
            Some(a)
        } else {
            self.nodes[b].left = self.merge(left, self.nodes[b].left);
            self.update(b);
            Some(b)
        }
    }

    fn update(&mut self, at: usize) {
        let end_of = |at: usize| self.nodes[at].end.as_deref();
        let mut furthest = at;
        for child in [self.nodes[at].left, self.nodes[at].right].into_iter().flatten() {
            let candidate = self.nodes[child].furthest;
            if compare_ends(end_of(candidate), end_of(furthest)) == Ordering::Greater {
                furthest = candidate;
            }
        }
        self.nodes[at].furthest = furthest;
    }
}

fn is_above(end: Option<&[u8]>, point: &[u8]) -> bool {
    end.is_none_or(|end| point < end)
}

fn compare(a: (&[u8], Option<&[u8]>), b: (&[u8], Option<&[u8]>)) -> Ordering {
    a.0.cmp(b.0).then_with(|| compare_ends(a.1, b.1))
}

fn compare_ends(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

/// Spreads a counter over all bits (the finalizer of SplitMix64).
fn mix(counter: u64) -> u64 {
    let mut bits = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
