//! watch: prints events as they come, over one stream that survives the loss of a server.
//!
//! Each watch remembers the next revision it needs. When the stream breaks, a new one is opened
//! on the next endpoint and every watch continues there, so nothing is printed twice or missed.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::BufRead as _,
    process::{Command, ExitStatus},
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use tokio::{sync::mpsc, time::sleep};
use tonic::{Request, Status};

use super::{
    Session,
    args::{WatchArgs, normalize},
    client::is_lost,
    exit::{BAD_CONNECTION, Exit, FAILED, INTERRUPTED, INVALID_INPUT, status_text},
    go, kv,
    print::Answer,
};
use crate::api::proto::{
    etcdserverpb::{
        WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
    mvccpb::Event,
};

/// Requests that may wait to be sent on a stream, and lines of input that may wait.
const WAITING_MAX: usize = 16;
/// Pause before a broken stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// Environment that may hold the key instead of the command line.
#[derive(Clone, Debug, Default)]
struct EnvRange {
    key: OsString,
    end: OsString,
}

/// One watch.
#[derive(Debug)]
struct Watched {
    /// How to create it; `start_revision` follows the events seen.
    create: WatchCreateRequest,
    /// Command to run for each event; empty for none.
    exec: Vec<OsString>,
    /// The server has ended it.
    ended: bool,
}

/// A line of interactive input.
enum Input {
    Watch(Watched),
    Progress,
    End(Exit),
}

/// Runs `watch`. `separator_last` says that the arguments end in `--`.
pub(super) async fn run(
    session: &Session,
    args: WatchArgs,
    separator_last: bool,
) -> Result<(), Exit> {
    let env = EnvRange {
        key: std::env::var_os("ETCDCTL_WATCH_KEY").unwrap_or_default(),
        end: std::env::var_os("ETCDCTL_WATCH_RANGE_END").unwrap_or_default(),
    };
    if env.key.is_empty() && !env.end.is_empty() {
        return Err(Exit::args(format!(
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
            go::quote(env.end.as_encoded_bytes())
        )));
    }
    let (sender, inputs) = mpsc::channel(WAITING_MAX);
    let interactive = args.interactive;
    let mut watches = Vec::new();
    if interactive {
        std::thread::spawn(move || read_lines(&env, &sender));
    } else {
        watches.push(watched(args, &env, separator_last)?);
    }
    let stream = Stream { session, watches, pending: VecDeque::new(), interactive };
    stream.run(inputs).await
}

/// What a command line asks to watch.
fn watched(args: WatchArgs, env: &EnvRange, separator_last: bool) -> Result<Watched, Exit> {
    if separator_last && args.exec.is_empty() {
        return Err(Exit::args("bad number of arguments (found separator --, but no commands)"));
    }
    let mut keys = args.args;
    if !env.key.is_empty() {
        if !keys.is_empty() {
            return Err(Exit::args("bad number of arguments (found conflicting environment key)"));
        }
        keys.push(env.key.clone());
        if !env.end.is_empty() {
            keys.push(env.end.clone());
        }
    }
    if keys.is_empty() || keys.len() > 2 {
        return Err(Exit::args("bad number of arguments"));
    }
    if keys.len() == 2 && args.prefix {
        return Err(Exit::args("`range_end` and `--prefix` are mutually exclusive"));
    }
    let (key, range_end) = kv::key_range("watch", keys, args.prefix, false)?;
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision: args.rev,
        progress_notify: args.progress_notify,
        prev_kv: args.prev_kv,
        ..WatchCreateRequest::default()
    };
    Ok(Watched { create, exec: args.exec, ended: false })
}

/// A `watch` line of interactive input.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, args_override_self = true)]
struct WatchLine {
    #[command(flatten)]
    watch: WatchArgs,
}

/// Reads lines until the end of input, on a thread of its own since reading blocks.
fn read_lines(env: &EnvRange, sender: &mpsc::Sender<Input>) {
    let end = |why: String| {
        let text = format!("error reading watch request line: {why}");
        Input::End(Exit::new(INVALID_INPUT, text))
    };
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let input = match lines.next() {
            None => end("EOF".to_owned()),
            Some(Err(error)) => end(error.to_string()),
            Some(Ok(line)) => match parse_line(&line, env) {
                Ok(input) => input,
                Err(complaint) => {
                    eprintln!("{complaint}");
                    continue;
                }
            },
        };
        let last = matches!(input, Input::End(_));
        if sender.blocking_send(input).is_err() || last {
            return;
        }
    }
}

/// Reads one line, or says what is wrong with it and lets the next one come.
fn parse_line(line: &str, env: &EnvRange) -> Result<Input, String> {
    let words = go::words(line)?;
    let Some((command, rest)) = words.split_first() else {
        return Err(format!("Invalid command: {line} (watch and progress supported)"));
    };
    match command.as_slice() {
        b"progress" => Ok(Input::Progress),
        b"watch" if rest.is_empty() && env.key.is_empty() => {
            Err(format!("Invalid command {line} (command type or key is not provided)"))
        }
        b"watch" => {
            let args =
                rest.iter().map(|word| std::os::unix::ffi::OsStringExt::from_vec(word.clone()));
            let (args, _) = normalize(args);
            let separator_last = args.last().is_some_and(|arg: &OsString| arg == "--");
            let parsed = WatchLine::try_parse_from(args)
                .map_err(|_| Exit::args(format!("Invalid command {line} (bad flags)")))
                .and_then(|line| watched(line.watch, env, separator_last));
            Ok(parsed.map_or_else(Input::End, Input::Watch))
        }
        _ => Err(format!("Invalid command {line} (only support watch)")),
    }
}

/// The watches and the stream they share.
struct Stream<'a> {
    session: &'a Session,
    /// A watch's id on the wire is its index plus one, so that ids survive a new stream.
    watches: Vec<Watched>,
    /// Watches whose creation the server has not answered yet, in order.
    pending: VecDeque<usize>,
    interactive: bool,
}

/// Why one stream ended.
enum Ended {
    /// Open another.
    Broken(String),
    /// Stop.
    Exit(Exit),
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}

impl Stream<'_> {
    /// Watches until something ends it; there is no good end.
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), Exit> {
        loop {
            match self.one_stream(&mut inputs).await {
                Ended::Exit(exit) => return Err(exit),
                Ended::Broken(why) => {
                    self.session.client.give_up(why);
                    sleep(REOPEN_PAUSE).await;
                }
            }
        }
    }

    /// Opens a stream, creates all watches on it and prints until it ends.
    async fn one_stream(&mut self, inputs: &mut mpsc::Receiver<Input>) -> Ended {
        let connection = match self.session.client.dial().await {
            Ok(connection) => connection,
            Err(exit) => return Ended::Exit(Exit { code: BAD_CONNECTION, ..exit }),
        };
        let (requests, receiver) = mpsc::channel(WAITING_MAX);
        let outgoing = futures::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let mut request = Request::new(outgoing);
        request.metadata_mut().insert("hasleader", "true".parse().expect("plain ASCII"));
        self.pending.clear();
        let all = (0..self.watches.len()).filter(|at| !self.watches[*at].ended);
        for at in all.collect::<Vec<_>>() {
            if let Err(ended) = self.create(at, &requests).await {
                return ended;
            }
        }
        let mut client = WatchClient::new(connection).max_decoding_message_size(usize::MAX);
        // A server says nothing before its first message, so input has to be taken meanwhile.
        let opening = client.watch(request);
        tokio::pin!(opening);
        let mut answers = loop {
            let step = tokio::select! {
                opened = &mut opening => match opened {
                    Ok(answers) => break answers.into_inner(),
                    Err(status) => Err(Self::broken(&status)),
                },
                input = inputs.recv(), if self.interactive => {
                    self.input(input, &requests).await
                }
            };
            if let Err(ended) = step {
                return ended;
            }
        };
        loop {
            let step = tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.handle(&answer).await,
                    Ok(None) => Err(Ended::Broken("the server ended the stream".to_owned())),
                    Err(status) => Err(Self::broken(&status)),
                },
                input = inputs.recv(), if self.interactive => {
                    self.input(input, &requests).await
                }
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    /// Whether a failed stream is worth another.
    fn broken(status: &Status) -> Ended {
        let text = status_text(status);
        if is_lost(status) && text != "etcdserver: no leader" {
            return Ended::Broken(text);
        }
        eprintln!("watch was canceled ({text})");
        Ended::Exit(Exit::new(INTERRUPTED, "watch is canceled by the server"))
    }

    async fn create(
        &mut self,
        at: usize,
        requests: &mpsc::Sender<WatchRequest>,
    ) -> Result<(), Ended> {
        let mut create = self.watches[at].create.clone();
        create.watch_id = i64::try_from(at + 1).unwrap_or_default();
        self.pending.push_back(at);
        send(requests, RequestUnion::CreateRequest(create)).await
    }

    async fn input(
        &mut self,
        input: Option<Input>,
        requests: &mpsc::Sender<WatchRequest>,
    ) -> Result<(), Ended> {
        match input {
            Some(Input::Watch(watched)) => {
                self.watches.push(watched);
                self.create(self.watches.len() - 1, requests).await
            }
            Some(Input::Progress) => {
                send(requests, RequestUnion::ProgressRequest(WatchProgressRequest {})).await
            }
            Some(Input::End(exit)) => Err(exit.into()),
            None => Err(Exit::silent(FAILED).into()),
        }
    }

    /// Prints one message of the server and remembers how far it got.
    async fn handle(&mut self, answer: &WatchResponse) -> Result<(), Ended> {
        let created = if answer.created { self.pending.pop_front() } else { None };
        let at = usize::try_from(answer.watch_id).ok().and_then(|id| id.checked_sub(1));
        let at = created.or(at).filter(|at| *at < self.watches.len());
        if answer.canceled {
            return self.canceled(at, answer);
        }
        let revision = answer.header.as_ref().map(|header| header.revision).unwrap_or_default();
        if answer.created {
            if let Some(at) = at
                && self.watches[at].create.start_revision == 0
            {
                self.watches[at].create.start_revision = revision + 1;
            }
            return Ok(());
        }
        if answer.events.is_empty() {
            // Without an id it is progress of every watch on the stream.
            let active = self.watches.iter().filter(|watch| !watch.ended).count();
            for _ in 0..if at.is_some() { 1 } else { active } {
                super::write(format!("progress notify: {revision}\n").as_bytes())?;
                self.session.show(&Answer::Watch(answer))?;
            }
            return Ok(());
        }
        self.session.show(&Answer::Watch(answer))?;
        let Some(at) = at else { return Ok(()) };
        for event in &answer.events {
            run_command(&self.watches[at].exec, revision, event).await?;
        }
        let seen = answer.events.last().and_then(|event| event.kv.as_ref());
        if let Some(pair) = seen {
            self.watches[at].create.start_revision = pair.mod_revision + 1;
        }
        Ok(())
    }

    fn canceled(&mut self, at: Option<usize>, answer: &WatchResponse) -> Result<(), Ended> {
        eprintln!("watch was canceled ({})", cancel_text(answer));
        self.session.show(&Answer::Watch(answer))?;
        if let Some(at) = at {
            self.watches[at].ended = true;
        }
        if self.interactive {
            return Ok(());
        }
        Err(Exit::new(INTERRUPTED, "watch is canceled by the server").into())
    }
}

async fn send(requests: &mpsc::Sender<WatchRequest>, union: RequestUnion) -> Result<(), Ended> {
    requests
        .send(WatchRequest { request_union: Some(union) })
        .await
        .map_err(|_| Ended::Broken("the stream takes no more requests".to_owned()))
}

/// Why the server ended a watch.
fn cancel_text(answer: &WatchResponse) -> &str {
    if answer.compact_revision != 0 {
        return "etcdserver: mvcc: required revision has been compacted";
    }
    match answer.cancel_reason.as_str() {
        "" => "etcdserver: mvcc: required revision is a future revision",
        reason => reason,
    }
}

/// Runs the command of a watch for one event and waits for it.
async fn run_command(exec: &[OsString], revision: i64, event: &Event) -> Result<(), Ended> {
    let Some((program, args)) = exec.split_first() else { return Ok(()) };
    let (key, value): (Bytes, Bytes) =
        event.kv.as_ref().map(|pair| (pair.key.clone(), pair.value.clone())).unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(args)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quote(event.r#type().as_str_name().as_bytes()))
        .env("ETCD_WATCH_KEY", go::quote(&key))
        .env("ETCD_WATCH_VALUE", go::quote(&value));
    // Elsewhere, so that the connection's pings are answered while it runs.
    let status = tokio::task::spawn_blocking(move || command.status()).await;
    let why = match status {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => exit_text(status),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let words: Vec<String> = exec.iter().map(|word| go::quote(word.as_encoded_bytes())).collect();
    eprintln!("command [{}] error ({why})", words.join(" "));
    Err(Exit::silent(FAILED).into())
}

fn exit_text(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str], env: &EnvRange) -> Result<Watched, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let separator_last = args.last().is_some_and(|arg| arg == "--");
        let line = WatchLine::try_parse_from(args).unwrap();
        watched(line.watch, env, separator_last).map_err(|exit| exit.message)
    }

    #[test]
    fn keys_come_from_arguments_or_environment() {
        let none = EnvRange::default();
        let env = EnvRange { key: "w".into(), end: "x".into() };
        let watch = parse(&["a", "--rev=3", "--", "echo", "hi"], &none).unwrap();
        assert_eq!((&watch.create.key[..], watch.create.start_revision), (&b"a"[..], 3));
        assert_eq!(watch.exec, ["echo", "hi"]);
        let watch = parse(&["--", "echo"], &env).unwrap();
        assert_eq!((&watch.create.key[..], &watch.create.range_end[..]), (&b"w"[..], &b"x"[..]));
        let cases: [(&[&str], &EnvRange, &str); 5] = [
            (&[], &none, "bad number of arguments"),
            (&["a", "b", "c"], &none, "bad number of arguments"),
            (&["--"], &none, "bad number of arguments (found separator --, but no commands)"),
            (&["a"], &env, "bad number of arguments (found conflicting environment key)"),
            (&["a", "b", "--prefix"], &none, "`range_end` and `--prefix` are mutually exclusive"),
        ];
        for (args, env, want) in cases {
            assert_eq!(parse(args, env).unwrap_err(), want, "{args:?}");
        }
    }

    #[test]
    fn interactive_lines_are_read_or_complained_about() {
        let none = EnvRange::default();
        assert!(matches!(parse_line("progress", &none), Ok(Input::Progress)));
        let Ok(Input::Watch(watch)) = parse_line("watch 'a b' --prefix=true", &none) else {
            panic!("no watch")
        };
        assert_eq!(
            (&watch.create.key[..], &watch.create.range_end[..]),
            (&b"a b"[..], &b"a c"[..])
        );
        for (line, want) in [
            ("", "Invalid command:  (watch and progress supported)"),
            ("watch", "Invalid command watch (command type or key is not provided)"),
            ("foo", "Invalid command foo (only support watch)"),
        ] {
            assert_eq!(parse_line(line, &none).err().as_deref(), Some(want), "{line}");
        }
    }

    #[test]
    fn a_cancellation_names_its_cause() {
        let answer = |compact_revision, reason: &str| WatchResponse {
            canceled: true,
            compact_revision,
            cancel_reason: reason.to_owned(),
            ..WatchResponse::default()
        };
        let cases = [
            (answer(2, ""), "etcdserver: mvcc: required revision has been compacted"),
            (answer(0, "mvcc: watcher range is empty"), "mvcc: watcher range is empty"),
            (
                answer(
                    0,
                    "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                ),
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ),
        ];
        for (answer, want) in cases {
            assert_eq!(cancel_text(&answer), want);
        }
    }
}
