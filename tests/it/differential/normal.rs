//! What may differ between two correct servers, and nothing else.
//!
//! Left out: ids of cluster and member, the term. Put into one order: leases, keys of a lease,
//! and pairs with equal sort keys. Left open: remaining seconds of a lease by one, and the
//! wording of errors that a library made rather than etcd.

use serde_json::{Value, json};

use super::step::{Method, Step, integer};

/// The answer with everything open taken out.
pub(crate) fn normalise(step: &Step, mut answer: Value) -> Value {
    strip_headers(&mut answer);
    if let Step::Call { method, body, .. } = step
        && let Some(ok) = answer.get_mut("ok")
    {
        match method {
            Method::Range => settle_ties(body, ok),
            Method::Txn => settle_txn(body, ok),
            Method::Leases => sort(ok.get_mut("leases")),
            Method::TimeToLive => sort(ok.get_mut("keys")),
            _ => {}
        }
    }
    answer
}

fn strip_headers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Object(header)) = fields.get_mut("header") {
                header.retain(|name, _| name == "revision");
            }
            fields.values_mut().for_each(strip_headers);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_headers),
        _ => {}
    }
}

fn sort(list: Option<&mut Value>) {
    if let Some(Value::Array(items)) = list {
        items.sort_by_key(Value::to_string);
    }
}

/// Follows a transaction and its answer down to every range.
fn settle_txn(txn: &Value, answer: &mut Value) {
    let succeeded = answer.get("succeeded") == Some(&json!(true));
    let branch = if succeeded { "success" } else { "failure" };
    let operations = txn.get(branch).and_then(Value::as_array);
    let responses = answer.get_mut("responses").and_then(Value::as_array_mut);
    let (Some(operations), Some(responses)) = (operations, responses) else { return };
    for (operation, response) in operations.iter().zip(responses) {
        if let Some(range) = operation.get("request_range")
            && let Some(response) = response.get_mut("response_range")
        {
            settle_ties(range, response);
        }
        if let Some(txn) = operation.get("request_txn")
            && let Some(response) = response.get_mut("response_txn")
        {
            settle_txn(txn, response);
        }
    }
}

/// etcd's sort is not stable, so pairs with equal sort keys come in any order; and a limit that
/// cuts through them keeps any of them.
fn settle_ties(range: &Value, answer: &mut Value) {
    let target = match range.get("sort_target").and_then(Value::as_str) {
        Some("VERSION") => "version",
        Some("CREATE") => "create_revision",
        Some("MOD") => "mod_revision",
        Some("VALUE") => "value",
        _ => return,
    };
    let cut = answer.get("more") == Some(&json!(true));
    let Some(kvs) = answer.get_mut("kvs").and_then(Value::as_array_mut) else { return };
    if target == "value" && range.get("keys_only") == Some(&json!(true)) {
        // The sort key itself is not shown.
        let shown = std::mem::take(kvs);
        *kvs = if cut { vec![json!(shown.len())] } else { sorted(shown) };
        return;
    }
    let mut groups: Vec<Vec<Value>> = Vec::new();
    for kv in std::mem::take(kvs) {
        match groups.last_mut() {
            Some(group) if group[0].get(target) == kv.get(target) => group.push(kv),
            _ => groups.push(vec![kv]),
        }
    }
    let last = groups.len().saturating_sub(1);
    for (index, group) in groups.into_iter().enumerate() {
        if cut && index == last && !group.is_empty() {
            kvs.extend(group.into_iter().map(|kv| json!({ "tie": kv.get(target) })));
        } else {
            kvs.extend(sorted(group));
        }
    }
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by_key(Value::to_string);
    values
}

/// The first difference between two normalised answers, or `None`.
pub(crate) fn difference(want: &Value, have: &Value) -> Option<String> {
    if is_library_text(want) {
        let code = |answer: &Value| answer.get("code").cloned();
        return compare(&json!(code(want)), &json!(code(have)), "$.code");
    }
    compare(want, have, "$")
}

/// Errors worded by a JSON, protobuf or gRPC library.
fn is_library_text(answer: &Value) -> bool {
    let message = answer.get("message").and_then(Value::as_str);
    message.is_some_and(|message| !message.starts_with("etcdserver: "))
}

fn compare(want: &Value, have: &Value, path: &str) -> Option<String> {
    match (want, have) {
        (Value::Object(want_fields), Value::Object(have_fields)) => {
            let extra = have_fields.keys().filter(|name| !want_fields.contains_key(*name));
            want_fields.keys().chain(extra).find_map(|name| {
                let inner = format!("{path}.{name}");
                match (want_fields.get(name), have_fields.get(name)) {
                    (Some(want), Some(have)) if name == "TTL" && near(want, have) => None,
                    (Some(want), Some(have)) => compare(want, have, &inner),
                    (want, have) => Some(format!("{inner}: etcd {want:?}, here {have:?}")),
                }
            })
        }
        (Value::Array(want_items), Value::Array(have_items)) => {
            if want_items.len() != have_items.len() {
                let (want, have) = (want_items.len(), have_items.len());
                return Some(format!("{path}: etcd has {want} items, here {have}"));
            }
            want_items
                .iter()
                .zip(have_items)
                .enumerate()
                .find_map(|(index, (want, have))| compare(want, have, &format!("{path}[{index}]")))
        }
        _ if want == have => None,
        _ => Some(format!("{path}: etcd {want}, here {have}")),
    }
}

/// Remaining seconds of a lease may differ by one.
fn near(want: &Value, have: &Value) -> bool {
    match (integer(want), integer(have)) {
        (Some(want), Some(have)) => want > 0 && have > 0 && want.abs_diff(have) <= 1,
        _ => false,
    }
}
