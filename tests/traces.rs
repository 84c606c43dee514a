//! Traces of OpenTelemetry: what a collector gets, what records carry on, and that nothing waits for either.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use support::broker::{Broker, wait_until};
use support::scene::{Scene, header, wait_consumed};
use support::worker::{BINARY, Site, free_address};

const POLICY: &str = "
policy: traced
version: 3
source: { topic: PREFIX.raw, format: json }
fields: { n: public, mail: email }
views:
  view: { topic: PREFIX.view, key: drop, default: keep, classes: { email: redact } }
  kept: { topic: PREFIX.kept, key: drop, default: keep, classes: { email: redact }, headers: [traceparent] }
";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn broker() -> Arc<Broker> {
    Broker::shared("traces")
}

/// What collectors get: the headers and the body of each request.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(HeaderMap, Bytes)>>>);

impl Collector {
    /// Over TLS with the certificate in the folder of `tls`.
    fn start(&self, tls: Option<&Site>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::clone(&self.0);
        let take = post(move |headers: HeaderMap, body: Bytes| async move {
            taken.lock().unwrap().push((headers, body));
            StatusCode::OK
        });
        let service = Router::new().route("/v1/traces", take).into_make_service();
        let files = tls.map(|site| (site.path("tls.crt"), site.path("tls.key")));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                match files {
                    None => axum_server::from_tcp(listener).unwrap().serve(service).await,
                    Some((certificate, key)) => {
                        let tls = RustlsConfig::from_pem_file(certificate, key).await.unwrap();
                        axum_server::from_tcp_rustls(listener, tls).unwrap().serve(service).await
                    }
                }
            })
        });
        address
    }

    fn spans(&self) -> Vec<Span> {
        let taken = self.0.lock().unwrap();
        let requests = taken.iter().map(|(_, body)| {
            ExportTraceServiceRequest::decode(body.clone()).expect("a request of OTLP")
        });
        let resources = requests.flat_map(|request| request.resource_spans);
        resources.flat_map(|one| one.scope_spans).flat_map(|one| one.spans).collect()
    }

    fn hold(&self, text: &str) -> bool {
        let taken = self.0.lock().unwrap();
        taken.iter().any(|(_, body)| String::from_utf8_lossy(body).contains(text))
    }
}

/// A collector that says that it has moved.
fn refer(to: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 64 << 10];
            let _ = stream.read(&mut asked);
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key == name);
    match found.and_then(|one| one.value.clone()).and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One record for each of these lists of headers; the last one is no JSON.
fn produce(scene: &Scene, headers: &[&[(&str, &str)]]) {
    let raw = scene.topic("raw");
    let last = headers.len() - 1;
    let values: Vec<_> = (0..headers.len())
        .map(|n| match n == last {
            false => format!(r#"{{"n":{n},"mail":"canarybird@example.com"}}"#),
            true => "canarybird, and no JSON".into(),
        })
        .collect();
    scene.broker.send(headers.iter().zip(&values).map(|(headers, value)| {
        let with = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header { key, value: Some(value.as_bytes()) })
        });
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&raw).headers(with);
        record.payload = Some(value.as_bytes());
        record
    }));
}

#[test]
fn a_trace_goes_on_from_its_producer_to_each_view_and_to_the_collector() {
    let mut scene = Scene::new(broker(), "traced", POLICY, &[("raw", 1), ("view", 1), ("kept", 1)]);
    let collector = Collector::default();
    let endpoint = format!("http://{}/v1/traces", collector.start(None));
    let traces = format!("{{ endpoint: '{endpoint}', sample: 1 }}");
    scene.site.environment.push(("VEILSTREAM__TELEMETRY__TRACES", traces));

    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let later = format!("cc-{TRACE}-{PARENT}-01-canarybird");
    let none: [&str; 8] = [
        &format!(" {sampled}"),
        &format!("{sampled} "),
        "00-1-+2-1",
        "canarybird",
        "",
        &format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        &format!("00-{}-{PARENT}-01", "0".repeat(32)),
        &format!("00-{TRACE}-{PARENT}-01-canarybird"),
    ];
    let mut lists: Vec<Vec<(&str, &str)>> = vec![
        vec![
            ("tracestate", "canarybird=1"),
            ("traceparent", &sampled),
            ("baggage", "canarybird=1"),
        ],
        vec![("traceparent", &unsampled)],
        vec![("traceparent", &later)],
        vec![("traceparent", &sampled), ("traceparent", &sampled)],
        vec![],
    ];
    lists.extend(none.iter().map(|value| vec![("traceparent", *value)]));
    lists.push(vec![("traceparent", &sampled)]);
    let all: Vec<_> = lists.iter().map(Vec::as_slice).collect();
    produce(&scene, &all);
    let worker = scene.site.start("one");
    wait_consumed(&worker, all.len() as u64);
    assert!(worker.stop().success());

    // At the end of the worker all is sent.
    let spans = collector.spans();
    let records: Vec<_> = spans.iter().filter(|span| span.name.starts_with("process ")).collect();
    assert_eq!(records.len(), 3, "the two of `sampled`, and `later`: {records:#?}");
    let transactions: Vec<_> = spans.iter().filter(|span| span.name == "transaction").collect();
    assert!(!transactions.is_empty());
    let own: HashSet<_> = transactions.iter().map(|span| span.span_id.clone()).collect();
    for (span, offset) in records.iter().zip(["0", "2", "13"]) {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
        assert_eq!(span.kind, 5, "a consumer");
        assert_eq!(attribute(span, "messaging.destination.name"), scene.topic("raw"));
        assert_eq!(attribute(span, "messaging.kafka.offset"), offset);
        assert!(attribute(span, "veilstream.policy").starts_with("traced@3#"));
        let bad = offset == "13";
        let outcome = if bad { "quarantined" } else { "published" };
        assert_eq!(attribute(span, "veilstream.outcome"), outcome);
        assert_eq!(span.status.as_ref().map_or(0, |status| status.code), if bad { 2 } else { 0 });
        assert!(own.contains(&span.links[0].span_id));
    }
    for stage in ["transform", "commit"] {
        let of_stage = spans.iter().filter(|span| span.name == stage);
        assert!(of_stage.clone().count() > 0);
        assert!(of_stage.into_iter().all(|span| own.contains(&span.parent_span_id)));
    }
    let counts = transactions.iter().map(|span| attribute(span, "messaging.batch.message_count"));
    assert_eq!(counts.map(|count| count.parse::<usize>().unwrap()).sum::<usize>(), all.len());
    assert!(!collector.hold("canarybird"), "a value in a span");

    // `kept` would keep the producer's: the worker's own stands in its place, where there is a trace.
    for view in ["view", "kept"] {
        let messages = scene.consume(view);
        assert_eq!(messages.len(), all.len() - 1);
        let of = |at: usize| {
            let headers = messages[at].headers.iter().filter(|(name, _)| name == "traceparent");
            headers
                .map(|(_, value)| String::from_utf8(value.clone().unwrap()).unwrap())
                .collect::<Vec<_>>()
        };
        for (at, span) in [(0, records[0]), (2, records[1])] {
            assert_eq!(of(at), [format!("00-{TRACE}-{}-01", hex(&span.span_id))]);
        }
        assert_eq!(of(1), std::slice::from_ref(&unsampled));
        for (at, list) in lists.iter().enumerate().take(all.len() - 1).skip(3) {
            let sent = list.iter().map(|(_, value)| (*value).to_owned());
            let kept: Vec<_> = sent.filter(|_| view == "kept").collect();
            assert_eq!(of(at), kept, "record {at} of {view}");
        }
        for message in &messages {
            assert!(header(message, "veilstream-policy").is_some());
            assert!(
                header(message, "tracestate").is_none() && header(message, "baggage").is_none()
            );
        }
    }
}

#[test]
fn without_being_asked_no_header_is_read_or_written() {
    let scene = Scene::new(broker(), "untraced", POLICY, &[("raw", 1), ("view", 1), ("kept", 1)]);
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    produce(&scene, &[&[("traceparent", &sampled)], &[]]);
    let worker = scene.site.start("one");
    wait_consumed(&worker, 2);
    assert!(worker.stop().success());
    assert!(header(&scene.consume("view")[0], "traceparent").is_none());
    assert_eq!(header(&scene.consume("kept")[0], "traceparent"), Some(sampled.as_str()));
}

#[test]
fn a_collector_is_spoken_to_over_tls_with_a_secret_and_never_waited_for() {
    let mut scene = Scene::new(broker(), "secret", POLICY, &[("raw", 1), ("view", 1), ("kept", 1)]);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(scene.site.path("tls.crt"), made.cert.pem()).unwrap();
    fs::write(scene.site.path("tls.key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(scene.site.path("token"), "Bearer canary-of-the-collector\n").unwrap();
    let collector = Collector::default();
    let port = collector.start(Some(&scene.site)).port();
    let traces = |port: u16, ca: &str| {
        format!(
            "{{ endpoint: 'https://localhost:{port}/v1/traces', sample: 1{ca},
               headers: {{ authorization: {{ file: token }} }} }}"
        )
    };
    let name = "VEILSTREAM__TELEMETRY__TRACES";

    // What the environment says of the way there, and of what else to tell, is not asked.
    let nobody = format!("http://{}", free_address());
    scene.site.environment = vec![
        (name, traces(port, ", ca: tls.crt")),
        ("HTTPS_PROXY", nobody.clone()),
        ("ALL_PROXY", nobody),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-more=canary-of-the-environment".into()),
    ];
    let worker = scene.site.start("one");
    produce(&scene, &[&[], &[]]);
    wait_consumed(&worker, 2);
    wait_until("traces are sent", || {
        worker.metric("veilstream_trace_exports_total", "\"sent\"") > 0.0
    });
    assert!(worker.stop().success());
    let taken = collector.0.lock().unwrap().len();
    let authorized = |(headers, _): &(HeaderMap, Bytes)| {
        let mut told = headers.get_all("authorization").iter();
        headers.get("x-more").is_none()
            && told.next().is_some_and(|value| value == "Bearer canary-of-the-collector")
            && told.next().is_none()
    };
    assert!(collector.0.lock().unwrap().iter().all(authorized));

    // One whose certificate nobody vouches for gets nothing, nor one that another refers to, and one that is away holds
    // nothing up.
    let refers = refer(format!("https://localhost:{port}/v1/traces"));
    let here = "{ endpoint: 'http://ADDRESS/v1/traces', sample: 1, headers: { authorization: { file: token } } }";
    for traces in [
        traces(port, ""),
        traces(free_address().port(), ""),
        here.replace("ADDRESS", &refers.to_string()),
    ] {
        scene.site.environment = vec![(name, traces)];
        let worker = scene.site.start("two");
        produce(&scene, &[&[], &[]]);
        wait_consumed(&worker, 2);
        wait_until("traces are not sent", || {
            worker.metric("veilstream_trace_exports_total", "\"failed\"") > 0.0
        });
        wait_until("the log says so", || {
            worker.log().contains("the collector does not take traces")
        });
        assert!(worker.stop().success());
    }
    assert_eq!(collector.0.lock().unwrap().len(), taken);
    assert_eq!(scene.consume("view").len(), 4);
    assert!(!scene.site.logs().contains("canary"));
}

#[test]
fn what_cannot_be_sent_anywhere_is_refused_at_the_start() {
    let site = Site::new(&free_address().to_string(), "refused", &POLICY.replace("PREFIX", "r"));
    fs::write(site.path("token"), "canarybird").unwrap();
    fs::write(site.path("lines"), "canarybird\nsecond").unwrap();
    let config = site.configure("one", free_address());
    for (traces, told) in [
        ("{ endpoint: 'ftp://a/b' }", "telemetry.traces.endpoint: no http or https address"),
        ("{ endpoint: '' }", "no http or https address"),
        ("{ endpoint: 'http://ann:canarybird@localhost:1/' }", "address without user and password"),
        (
            "{ endpoint: 'http://127.0.0.1:1/', sample: 1.5 }",
            "telemetry.traces.sample: 1.5 is not between 0 and 1",
        ),
        (
            "{ endpoint: 'http://collector:4318/v1/traces', headers: { authorization: { file: token } } }",
            "secrets go to collector in the clear: use https",
        ),
        (
            "{ endpoint: 'http://[::1]:1/', headers: { authorization: { file: lines } } }",
            "telemetry.traces.headers.authorization: not to be sent in an HTTP header",
        ),
        (
            "{ endpoint: 'http://localhost:1/', headers: { 'a b': { file: token } } }",
            "telemetry.traces.headers.a b: no name of an HTTP header",
        ),
        (
            "{ endpoint: 'http://localhost:1/', headers: { a: { file: nothing } } }",
            "telemetry.traces.headers.a: ",
        ),
        ("{ endpoint: 'https://localhost:1/', ca: nothing }", "telemetry.traces.ca: "),
        ("{ endpoint: 'https://localhost:1/', ca: token }", "holds no certificate"),
    ] {
        for only in [&[][..], &["--check"]] {
            let mut run = Command::new(BINARY);
            run.args(["run", "--config"]).arg(&config).args(only);
            let output = run.env("VEILSTREAM__TELEMETRY__TRACES", traces).output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{traces}: {error}");
            assert!(error.contains(told) && !error.contains("canarybird"), "{traces}: {error}");
        }
    }
}
