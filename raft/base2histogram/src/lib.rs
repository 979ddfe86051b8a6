//! The histograms that openraft keeps of its batch sizes, without their tables.
//!
//! openraft counts into some twenty histograms that Tripod shows nowhere. The published crate of
//! this name computes look-up tables for sixteen resolutions at the first use: 27 MB that stay
//! resident, of which 2 KB are used. The workspace puts this crate in its place; it has the part
//! of the interface that openraft names without its feature `runtime-stats`, and no table.
//!
//! Invariants:
//! - a histogram covers all of `u64`, four buckets for each power of two;
//! - one that nothing was recorded in takes no memory beside itself.

use std::{fmt, marker::PhantomData};

/// Bits of a value that choose its bucket: the highest one and those after it.
const WIDTH: u32 = 3;
/// Buckets for each power of two.
const GROUP: usize = 1 << (WIDTH - 1);
/// Buckets of a histogram.
const BUCKETS: usize = GROUP * (u64::BITS + 2 - WIDTH) as usize;

/// Counts of values by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// Empty until the first value.
    counts: Vec<u64>,
    total: u64,
    slots: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self { counts: Vec::new(), total: 0, slots: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `times` times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count = count.saturating_add(times);
            self.total = self.total.saturating_add(times);
        }
    }

    /// Values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least value of the bucket in which the given share (0 to 1) of all values is reached;
    /// 0 where nothing was counted.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank in a histogram need not be exact, and is between 0 and the total"
    )]
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map_or(0, least)
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// Values below which given shares of all values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// Of one in a thousand.
    pub p0_1: u64,
    /// Of one in a hundred.
    pub p1: u64,
    /// Of one in twenty.
    pub p5: u64,
    /// Of one in ten.
    pub p10: u64,
    /// Of half.
    pub p50: u64,
    /// Of nine in ten.
    pub p90: u64,
    /// Of 99 in a hundred.
    pub p99: u64,
    /// Of 999 in a thousand.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "{samples} values: 0.1 % below {p0_1}, 1 % {p1}, 5 % {p5}, 10 % {p10}, 50 % {p50}, \
             90 % {p90}, 99 % {p99}, 99.9 % {p99_9}"
        )
    }
}

/// Named histograms to be shown together.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    rows: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// An empty chart.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.rows.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.rows {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let group = (u64::BITS - value.leading_zeros()).saturating_sub(WIDTH);
    // The leading bits of a value: below twice the size of a group.
    let leading = usize::try_from(value >> group).unwrap_or_default();
    group as usize * GROUP + leading
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    let group = (bucket / GROUP).saturating_sub(1);
    ((bucket - group * GROUP) as u64) << group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_begins_at_or_below_it() {
        let powers = (0..u64::BITS).map(|power| 1_u64 << power);
        let near = powers.flat_map(|power| [power - 1, power, power + power / 2, power | 1]);
        for value in near.chain(0..5000).chain([u64::MAX]) {
            let at = bucket(value);
            assert!(at < BUCKETS && least(at) <= value, "{value} in {at}");
            assert!(at + 1 == BUCKETS || value < least(at + 1), "{value} in {at}");
        }
    }

    #[test]
    fn percentiles_are_those_of_a_sorted_list_within_a_quarter() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!((histogram.percentile(0.5), histogram.total()), (0, 0));
        let values: Vec<u64> = (1..=1000).map(|value| value * value).collect();
        values.iter().for_each(|&value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1000);
        for (found, rank) in [(stats.p1, 10), (stats.p50, 500), (stats.p99, 990)] {
            let exact = values[rank - 1];
            assert!(found <= exact && exact - found <= exact / 4, "{found} for {exact}");
        }
    }

    #[test]
    fn a_histogram_without_values_takes_no_memory_beside_itself() {
        let histogram = Histogram::<()>::new();
        assert_eq!(histogram.clone().counts.capacity(), 0);
        let chart = AsciiChart::new().add("batch", histogram).to_string();
        assert!(chart.contains("batch: 0 values"));
    }
}
