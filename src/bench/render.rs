//! Keys, values and request bodies, rendered without going through message types.
//!
//! Every value names the key, client and request that wrote it, so that reading it back tells
//! whether it is the right one. The rest of a value is filler from the seed.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    plan::{Op, Plan, Protocol},
    wire::Method,
};

/// Length of every key: a prefix and twelve digits. A multiple of three, so that its base64 has no
/// padding.
pub(crate) const KEY_BYTES: usize = 18;
const KEY_PREFIX: &[u8; 6] = b"bench/";
const KEY_BASE64_BYTES: usize = KEY_BYTES / 3 * 4;
/// Length of the part of a value that says who wrote it; a multiple of three likewise.
pub(crate) const STAMP_BYTES: usize = 24;
const STAMP_BASE64_BYTES: usize = STAMP_BYTES / 3 * 4;

/// Small seeded generator (splitmix64); keys only need to be spread.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`; the bias is irrelevant at these sizes.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Who wrote a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the key.
    pub(crate) key: u64,
    /// Number of the request among the client's.
    pub(crate) sequence: u64,
    /// Number of the client.
    pub(crate) client: u32,
    /// Tag of the run: values of another seed are recognised.
    pub(crate) run: u32,
}

impl Stamp {
    fn bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&self.key.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.client.to_be_bytes());
        bytes[20..].copy_from_slice(&self.run.to_be_bytes());
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let u64_at = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Self { key: u64_at(0)?, sequence: u64_at(8)?, client: u32_at(16)?, run: u32_at(20)? })
    }
}

/// What one request does; a mixed workload has been decided by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Put,
    Get,
    Serializable,
    Txn,
}

impl Action {
    pub(crate) fn method(self) -> Method {
        match self {
            Self::Put => Method::Put,
            Self::Get | Self::Serializable => Method::Range,
            Self::Txn => Method::Txn,
        }
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Txn)
    }
}

/// Renders bodies of one run.
#[derive(Debug)]
pub(crate) struct Renderer {
    protocol: Protocol,
    op: Op,
    read_percent: u64,
    run: u32,
    value_bytes: usize,
    /// What follows the stamp.
    filler: Vec<u8>,
    filler_base64: Vec<u8>,
}

impl Renderer {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let run = u32::try_from(rng.next() >> 32).unwrap_or(0);
        let length = plan.value_bytes.saturating_sub(STAMP_BYTES);
        let filler: Vec<u8> =
            std::iter::repeat_with(|| rng.next().to_be_bytes()).flatten().take(length).collect();
        Self {
            protocol: plan.protocol,
            op: plan.op,
            read_percent: plan.read_percent.into(),
            run,
            value_bytes: plan.value_bytes,
            filler_base64: STANDARD.encode(&filler).into_bytes(),
            filler,
        }
    }

    /// Decides what the next request does.
    pub(crate) fn action(&self, rng: &mut Rng) -> Action {
        match self.op {
            Op::Put => Action::Put,
            Op::Get => Action::Get,
            Op::Serializable => Action::Serializable,
            Op::Txn => Action::Txn,
            Op::Mixed if rng.below(100) < self.read_percent => Action::Get,
            Op::Mixed => Action::Put,
        }
    }

    /// The stamp of a write.
    pub(crate) fn stamp(&self, key: u64, sequence: u64, client: u32) -> Stamp {
        Stamp { key, sequence, client, run: self.run }
    }

    /// Writes a request body into `body`, whose earlier content is dropped.
    pub(crate) fn body(&self, body: &mut Vec<u8>, action: Action, stamp: Stamp) {
        body.clear();
        match self.protocol {
            Protocol::Grpc => self.protobuf(body, action, stamp),
            Protocol::Http => self.json(body, action, stamp),
        }
    }

    fn protobuf(&self, body: &mut Vec<u8>, action: Action, stamp: Stamp) {
        let key = key(stamp.key);
        match action {
            Action::Put => self.put_message(body, &key, stamp),
            Action::Get | Action::Serializable => {
                field(body, 1, &key);
                if action == Action::Serializable {
                    body.extend_from_slice(&[7 << 3, 1]);
                }
            }
            Action::Txn => {
                // compare { result: GREATER, target: VERSION, key, version: 0 }: both branches
                // write, so that each transaction is one write whatever was there.
                let mut compare = vec![1 << 3, 1];
                field(&mut compare, 3, &key);
                compare.extend_from_slice(&[4 << 3, 0]);
                let mut put = vec![];
                self.put_message(&mut put, &key, stamp);
                let mut op = vec![];
                field(&mut op, 2, &put);
                field(body, 1, &compare);
                field(body, 2, &op);
                field(body, 3, &op);
            }
        }
    }

    fn put_message(&self, out: &mut Vec<u8>, key: &[u8], stamp: Stamp) {
        field(out, 1, key);
        out.push(2 << 3 | 2);
        varint(out, self.value_bytes);
        let stamp = stamp.bytes();
        out.extend_from_slice(&stamp[..self.value_bytes.min(STAMP_BYTES)]);
        out.extend_from_slice(&self.filler);
    }

    fn json(&self, body: &mut Vec<u8>, action: Action, stamp: Stamp) {
        let mut key_text = [0; KEY_BASE64_BYTES];
        base64(&key(stamp.key), &mut key_text);
        match action {
            Action::Put => self.put_object(body, &key_text, stamp),
            Action::Get => join(body, &[b"{\"key\":\"", &key_text, b"\"}"]),
            Action::Serializable => {
                join(body, &[b"{\"key\":\"", &key_text, b"\",\"serializable\":true}"]);
            }
            Action::Txn => {
                let mut put = vec![];
                self.put_object(&mut put, &key_text, stamp);
                let parts: [&[u8]; 7] = [
                    b"{\"compare\":[{\"result\":\"GREATER\",\"target\":\"VERSION\",\"version\":\"0\",\"key\":\"",
                    &key_text,
                    b"\"}],\"success\":[{\"requestPut\":",
                    &put,
                    b"}],\"failure\":[{\"requestPut\":",
                    &put,
                    b"}]}",
                ];
                join(body, &parts);
            }
        }
    }

    fn put_object(&self, out: &mut Vec<u8>, key_text: &[u8], stamp: Stamp) {
        join(out, &[b"{\"key\":\"", key_text, b"\",\"value\":\""]);
        let stamp = stamp.bytes();
        if self.value_bytes >= STAMP_BYTES {
            let mut text = [0; STAMP_BASE64_BYTES];
            base64(&stamp, &mut text);
            join(out, &[&text, &self.filler_base64]);
        } else {
            out.extend_from_slice(STANDARD.encode(&stamp[..self.value_bytes]).as_bytes());
        }
        out.extend_from_slice(b"\"}");
    }

    /// Whether `value` is one this run wrote under `key`; who wrote it, if it has room to tell.
    pub(crate) fn check(&self, key: u64, value: &[u8]) -> Result<Option<Stamp>, String> {
        if value.len() != self.value_bytes {
            return Err(format!("{} bytes instead of {}", value.len(), self.value_bytes));
        }
        let Some((start, rest)) = value.split_at_checked(STAMP_BYTES) else { return Ok(None) };
        let stamp = Stamp::of(start).ok_or("no stamp")?;
        if stamp.key != key || stamp.run != self.run {
            return Err(format!("stamp of another key or run: {stamp:?}"));
        }
        if rest != self.filler {
            return Err("filler differs".into());
        }
        Ok(Some(stamp))
    }
}

/// The key of this number.
pub(crate) fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'0'; KEY_BYTES];
    key[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
    let mut rest = number;
    for digit in key[KEY_PREFIX.len()..].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
    }
    key
}

fn base64(input: &[u8], output: &mut [u8]) {
    STANDARD.encode_slice(input, output).expect("the output has the size of the input's base64");
}

fn join(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// A length-delimited protobuf field with a number below 16.
pub(crate) fn field(out: &mut Vec<u8>, number: u8, data: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, data.len());
    out.extend_from_slice(data);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("below 128"));
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::api::proto::etcdserverpb::{
        PutRequest, RangeRequest, TxnRequest, request_op::Request,
    };

    fn renderer(op: Op, protocol: Protocol, value_bytes: usize) -> Renderer {
        Renderer::new(&Plan { op, protocol, value_bytes, ..Plan::default() })
    }

    fn rendered(renderer: &Renderer, action: Action) -> (Vec<u8>, Stamp) {
        let stamp = renderer.stamp(42, 7, 3);
        let mut body = b"old".to_vec();
        renderer.body(&mut body, action, stamp);
        (body, stamp)
    }

    #[test]
    fn protobuf_bodies_decode_as_etcd_messages() {
        for value_bytes in [0, 5, 24, 256, 100_000] {
            let renderer = renderer(Op::Put, Protocol::Grpc, value_bytes);
            let (body, stamp) = rendered(&renderer, Action::Put);
            let put = PutRequest::decode(body.as_slice()).unwrap();
            assert_eq!(put.key, &b"bench/000000000042"[..]);
            let want = (value_bytes >= STAMP_BYTES).then_some(stamp);
            assert_eq!(renderer.check(42, &put.value), Ok(want), "{value_bytes}");

            let (body, _) = rendered(&renderer, Action::Txn);
            let txn = TxnRequest::decode(body.as_slice()).unwrap();
            assert_eq!((txn.compare.len(), txn.compare[0].key.as_ref()), (1, &put.key[..]));
            for ops in [&txn.success, &txn.failure] {
                assert_eq!(ops[0].request, Some(Request::RequestPut(put.clone())));
            }
        }
        for (action, serializable) in [(Action::Get, false), (Action::Serializable, true)] {
            let (body, _) = rendered(&renderer(Op::Get, Protocol::Grpc, 10), action);
            let range = RangeRequest::decode(body.as_slice()).unwrap();
            assert_eq!((range.key.len(), range.serializable), (KEY_BYTES, serializable));
        }
    }

    #[test]
    fn json_bodies_carry_the_same_values() {
        for value_bytes in [0, 5, 24, 25, 256] {
            let renderer = renderer(Op::Put, Protocol::Http, value_bytes);
            let (body, _) = rendered(&renderer, Action::Put);
            let put: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let value = STANDARD.decode(put["value"].as_str().unwrap()).unwrap();
            assert!(renderer.check(42, &value).is_ok(), "{value_bytes}");
            let (body, _) = rendered(&renderer, Action::Txn);
            let txn: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(txn["success"][0]["requestPut"], put);
        }
        let (body, _) = rendered(&renderer(Op::Get, Protocol::Http, 0), Action::Serializable);
        let range: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(range["serializable"], true);
    }

    #[test]
    fn a_wrong_value_is_recognised() {
        let renderer = renderer(Op::Put, Protocol::Grpc, 64);
        let (body, _) = rendered(&renderer, Action::Put);
        let mut value = PutRequest::decode(body.as_slice()).unwrap().value.to_vec();
        assert!(renderer.check(43, &value).is_err(), "value of another key");
        assert!(renderer.check(42, &value[1..]).is_err(), "wrong length");
        value[60] ^= 1;
        assert!(renderer.check(42, &value).is_err(), "flipped bit");
    }

    #[test]
    fn a_mixed_workload_keeps_its_proportion() {
        let plan = Plan { op: Op::Mixed, read_percent: 80, ..Plan::default() };
        let (renderer, mut rng) = (Renderer::new(&plan), Rng::new(1));
        let reads = (0..10_000).filter(|_| renderer.action(&mut rng) == Action::Get).count();
        assert!((7_800..8_200).contains(&reads), "{reads}");
    }
}
