//! The Prometheus text format, version 0.0.4.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write as _};

use tripod_raft::Distribution;

/// Content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels of a sample.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A document under construction.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// A family whose samples are being written.
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins a family. `kind` is `counter`, `gauge` or `histogram`.
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        put(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { out: &mut self.0, name }
    }

    /// A family of one counter.
    pub(super) fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "counter", help).sample(&[], value);
    }

    /// A family of one gauge.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "gauge", help).sample(&[], value);
    }

    /// A family of one histogram of durations in nanoseconds, shown in seconds. Buckets below
    /// `first_ns` are shown as part of the first one.
    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        help: &str,
        read: &Distribution,
        first_ns: u64,
    ) {
        self.family(name, "histogram", help).histogram(&[], read, NANO, first_ns);
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Seconds in a nanosecond, as a divisor.
pub(super) const NANO: f64 = 1e9;

/// Writing to a string does not fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

impl Family<'_> {
    /// Writes one sample.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, &value);
    }

    /// Writes the samples of one histogram; bounds and sum are divided by `unit`.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    pub(super) fn histogram(
        &mut self,
        labels: Labels<'_>,
        read: &Distribution,
        unit: f64,
        first: u64,
    ) {
        let mut count = 0;
        for (bound, more) in &read.buckets {
            count += more;
            if *bound >= first {
                let bound = (*bound as f64 / unit).to_string();
                self.line("_bucket", labels, Some(&bound), &count);
            }
        }
        count += read.above;
        self.line("_bucket", labels, Some("+Inf"), &count);
        self.line("_sum", labels, None, &(read.sum as f64 / unit));
        self.line("_count", labels, None, &count);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: &dyn Display) {
        put(self.out, format_args!("{}{suffix}", self.name));
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (name, value) in labels {
            put(self.out, format_args!("{before}{name}=\""));
            escape(self.out, value);
            self.out.push('"');
            before = ',';
        }
        let close = if before == ',' { "}" } else { "" };
        put(self.out, format_args!("{close} {value}\n"));
    }
}

fn escape(out: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_a_family_has_help_and_type() {
        let mut text = Text::default();
        let mut family = text.family("a_total", "counter", "one\ntwo \\");
        family.sample(&[], 1);
        family.sample(&[("x", "a\"b\\c\nd"), ("y", "")], 2.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total one\\ntwo \\\\\n# TYPE a_total counter\na_total 1\n\
             a_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 2.5\n"
        );
    }

    #[test]
    fn buckets_are_cumulative_and_fine_ones_may_be_left_out() {
        let read = Distribution {
            buckets: vec![(500_000, 1), (1_000_000, 2), (2_000_000, 0)],
            above: 4,
            sum: 1_500_000_000,
        };
        let mut text = Text::default();
        text.seconds("s", "h", &read, 1_000_000);
        assert_eq!(
            text.finish(),
            "# HELP s h\n# TYPE s histogram\ns_bucket{le=\"0.001\"} 3\ns_bucket{le=\"0.002\"} 3\n\
             s_bucket{le=\"+Inf\"} 7\ns_sum 1.5\ns_count 7\n"
        );
    }
}
