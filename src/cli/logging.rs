//! Log lines as etcd's zap writes them, so that tools that read etcd's log read ours.
//!
//! `{"level":"info","ts":"2026-01-02T03:04:05.678Z","caller":"cli/serve.rs:42","msg":"...",...}`
//! in JSON form; the same in tab separated columns in console form. Times are UTC.

use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, LogLevel, LogOutput, LogOutputs};

/// Sends all events of this process to `outputs`. The first call wins; later ones do nothing.
///
/// # Errors
/// A file that cannot be opened, with its path.
pub(crate) fn init(level: LogLevel, format: LogFormat, outputs: &LogOutputs) -> io::Result<()> {
    let targets = outputs.0.iter().map(Target::open).collect::<io::Result<Vec<_>>>()?;
    let lines = tracing_subscriber::fmt::layer()
        .event_format(ZapFormat(format))
        .with_writer(Outputs(Arc::new(targets)));
    // The consensus library tells each step at `info` and each failed heartbeat of a dead peer at
    // `error`, many times a second; our own lines say what an operator needs of it.
    let filter =
        Targets::new().with_default(filter_of(level)).with_target("openraft", only_at_debug(level));
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(())
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        // What zap calls panic and fatal ends the program with an error line of its own.
        LogLevel::Error | LogLevel::Panic | LogLevel::Fatal => LevelFilter::ERROR,
    }
}

fn only_at_debug(level: LogLevel) -> LevelFilter {
    if level == LogLevel::Debug { LevelFilter::DEBUG } else { LevelFilter::OFF }
}

/// One place lines go to.
enum Target {
    Stderr,
    Stdout,
    File(File),
}

impl Target {
    fn open(output: &LogOutput) -> io::Result<Self> {
        Ok(match output {
            LogOutput::Stderr => Self::Stderr,
            LogOutput::Stdout => Self::Stdout,
            LogOutput::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Self::File(file.map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?)
            }
        })
    }
}

/// All places; each line is one write to each.
#[derive(Clone)]
struct Outputs(Arc<Vec<Target>>);

impl Write for Outputs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut result = Ok(line.len());
        for target in self.0.iter() {
            let written = match target {
                Target::Stderr => io::stderr().lock().write_all(line),
                Target::Stdout => io::stdout().lock().write_all(line),
                Target::File(file) => (&*file).write_all(line),
            };
            if let Err(error) = written {
                result = Err(error);
            }
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// zap's line.
struct ZapFormat(LogFormat);

impl<S, N> FormatEvent<S, N> for ZapFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ts = timestamp(now.as_secs(), now.subsec_millis());
        let caller = caller(metadata.file().unwrap_or(metadata.target()), metadata.line());
        let Fields { message, rest } = fields;
        match self.0 {
            LogFormat::Json => {
                let (caller, message) = (json(&caller), json(&message));
                let comma = if rest.is_empty() { "" } else { "," };
                writeln!(
                    writer,
                    r#"{{"level":"{level}","ts":"{ts}","caller":{caller},"msg":{message}{comma}{rest}}}"#
                )
            }
            LogFormat::Console if rest.is_empty() => {
                writeln!(writer, "{ts}\t{level}\t{caller}\t{message}")
            }
            LogFormat::Console => {
                writeln!(writer, "{ts}\t{level}\t{caller}\t{message}\t{{{rest}}}")
            }
        }
    }
}

/// Message and fields of one event; the fields already as the inside of a JSON object.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn push(&mut self, field: &Field, json_value: &str) {
        let comma = if self.rest.is_empty() { "" } else { "," };
        let _ = write!(self.rest, "{comma}{}:{json_value}", json(&field.name().replace('_', "-")));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.push(field, &json(&format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.push(field, &json(value));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.push(field, &json(&text));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, &value.to_string());
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `directory/file.rs:line`, as zap shortens it; `src` says nothing and is skipped.
fn caller(file: &str, line: Option<u32>) -> String {
    let mut parts = file.rsplit('/').filter(|part| *part != "src");
    let name = parts.next().unwrap_or(file);
    let place = parts.next().map_or(name.to_owned(), |dir| format!("{dir}/{name}"));
    line.map_or(place.clone(), |line| format!("{place}:{line}"))
}

/// ISO 8601 in UTC with milliseconds.
fn timestamp(unix_s: u64, millis: u32) -> String {
    let (year, month, day) = civil_date(unix_s / 86_400);
    let (hour, minute, second) = (unix_s / 3600 % 24, unix_s / 60 % 60, unix_s % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Gregorian date of a day since 1970-01-01. Counts years from March, so that the leap day is
/// the last day of a year.
fn civil_date(unix_day: u64) -> (u64, u64, u64) {
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = unix_day + 719_468; // days from 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (days / DAYS_PER_400_YEARS, days % DAYS_PER_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn times_are_utc_dates() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_501_756, "2026-11-24T06:29:16.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (unix_s, want) in cases {
            assert_eq!(timestamp(unix_s, 0), want);
        }
    }

    #[test]
    fn a_caller_is_directory_and_file() {
        let cases = [
            ("src/cli/serve.rs", "cli/serve.rs:7"),
            ("raft/src/consensus.rs", "raft/consensus.rs:7"),
            ("src/node.rs", "node.rs:7"),
        ];
        for (file, want) in cases {
            assert_eq!(caller(file, Some(7)), want);
        }
    }

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(format: LogFormat) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(ZapFormat(format))
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(term = 3, node_id = %"8e9e", ok = true, "became \"leader\"");
        });
        let bytes = captured.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_zaps_fields_in_zaps_order() {
        let line = line(LogFormat::Json);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["msg"], "became \"leader\"");
        assert_eq!(value["term"], 3);
        assert_eq!(value["node-id"], "8e9e");
        assert_eq!(value["ok"], true);
        assert!(line.starts_with(r#"{"level":"info","ts":"20"#), "{line}");
        assert!(line.contains(r#","caller":"cli/logging.rs:"#), "{line}");
        assert!(line.ends_with("}\n"), "{line}");
    }

    #[test]
    fn a_console_line_has_columns() {
        let line = line(LogFormat::Console);
        let columns: Vec<&str> = line.trim_end().split('\t').collect();
        assert_eq!(columns[1], "info");
        assert_eq!(columns[3], "became \"leader\"");
        assert_eq!(columns[4], r#"{"term":3,"node-id":"8e9e","ok":true}"#);
    }
}
