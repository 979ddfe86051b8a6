//! A strict reader of the Prometheus text format: whatever a server may not rely on is an error.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// One family as exported.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    /// Samples in order: name, labels, value.
    pub(crate) samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Families by name.
pub(crate) type Families = BTreeMap<String, Family>;

/// Reads a whole document.
pub(crate) fn parse(text: &str) -> Result<Families> {
    ensure!(text.ends_with('\n'), "the last line does not end");
    let mut families = Families::new();
    let mut current = String::new();
    let mut help = None;
    for (number, line) in text.lines().enumerate() {
        let at = || format!("line {}: {line}", number + 1);
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, says) = rest.split_once(' ').with_context(at)?;
            ensure!(!says.is_empty(), "no help in {}", at());
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(at)?;
            ensure!(help.take().as_deref() == Some(name), "no help before {}", at());
            ensure!(is_name(name), "bad name in {}", at());
            ensure!(matches!(kind, "counter" | "gauge" | "histogram"), "{}", at());
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            ensure!(families.insert(name.to_owned(), family).is_none(), "twice: {}", at());
            current = name.to_owned();
        } else {
            let sample = sample(line).with_context(at)?;
            let family = families.get_mut(&current).with_context(at)?;
            let suffix = sample.name.strip_prefix(&current).with_context(at)?;
            let allowed: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            ensure!(allowed.contains(&suffix), "not of family {current}: {}", at());
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        check(family).with_context(|| format!("family {name}"))?;
    }
    Ok(families)
}

fn check(family: &Family) -> Result<()> {
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        ensure!(seen.insert((&sample.name, &sample.labels)), "two samples {sample:?}");
        let is_sane = sample.value.is_finite() && (family.kind == "gauge" || sample.value >= 0.0);
        ensure!(is_sane, "{sample:?}");
    }
    if family.kind != "histogram" {
        return Ok(());
    }
    // By the labels besides `le`: bounds and counts in order, and the count behind them.
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        if sample.name.ends_with("_bucket") {
            let bound = bound.context("a bucket without le")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
            series.entry(labels).or_default().push((bound, sample.value));
        } else {
            ensure!(bound.is_none(), "le outside a bucket: {sample:?}");
            if sample.name.ends_with("_count") {
                let last = series.get(&labels).and_then(|buckets| buckets.last());
                ensure!(last == Some(&(f64::INFINITY, sample.value)), "count of {labels:?}");
            }
        }
    }
    for buckets in series.values() {
        let ordered = buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
        ensure!(ordered, "buckets are not cumulative: {buckets:?}");
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(is_name(name), "bad name {name:?}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").context("no label")?;
            ensure!(is_name(label) && !label.contains(':'), "bad label {label:?}");
            let (value, after) = quoted(after)?;
            ensure!(labels.insert(label.to_owned(), value).is_none(), "label {label} twice");
            match after.as_bytes().first() {
                Some(b',') => rest = &after[1..],
                Some(b'}') => {
                    rest = &after[1..];
                    break;
                }
                _ => bail!("labels do not end"),
            }
        }
    }
    let value = rest.strip_prefix(' ').context("no space before the value")?;
    Ok(Sample { name: name.to_owned(), labels, value: value.parse().context("no number")? })
}

/// A label value up to its closing quote, and what follows.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                other => bail!("bad escape {other:?}"),
            },
            other => value.push(other),
        }
    }
    bail!("a label value does not end")
}

#[test]
fn the_parser_refuses_what_the_format_forbids() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\\\"\"} 1\n";
    assert_eq!(parse(good).unwrap()["a_total"].samples[0].labels["b"], "c\"");
    for (bad, why) in [
        ("# TYPE a counter\na 1\n", "no help"),
        ("# HELP a x\n# TYPE a counter\na 1", "no end"),
        ("# HELP a x\n# TYPE a counter\nb 1\n", "other family"),
        ("# HELP a x\n# TYPE a counter\na 1\na 2\n", "twice"),
        ("# HELP a x\n# TYPE a counter\na -1\n", "negative counter"),
        ("# HELP a x\n# TYPE a counter\na{b=\"c} 1\n", "open quote"),
        ("# HELP a x\n# TYPE a gauge\na NaN\n", "no number"),
        (
            "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
            "falling",
        ),
        ("# HELP a x\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n", "count"),
    ] {
        assert!(parse(bad).is_err(), "{why}");
    }
}
