//! Traces of OpenTelemetry, off unless `telemetry.traces` is set: one of each transaction that is drawn, and a span
//! for each record whose producer traces it, by the W3C Trace Context of its headers.
//!
//! A span holds names, numbers and codes, as a metric does, never a value. Of the producer's headers `traceparent`
//! alone goes on, read and written anew; `tracestate` is text that anybody fills, and stays behind.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span,
};
use prometheus::IntCounterVec;
use ureq::http::header::CONTENT_TYPE;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{self, ConfigError};
use crate::outbound::{self, Endpoint};
use crate::rewrite::{Failure, Header, TRACEPARENT, TraceParent};

/// A collector that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of the worker waits for what is left to send.
const FAREWELL: Duration = Duration::from_secs(3);
/// Spans that wait to be sent; more are dropped.
const QUEUE: usize = 8_192;
/// Producers decide how many records are traced; a transaction traces no more than so many.
const MOST_RECORDS: usize = 1_000;

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// It may hold a password.
    #[error("telemetry.traces.endpoint: no http or https address without user and password")]
    Endpoint,
    #[error("telemetry.traces.sample: {0} is not between 0 and 1")]
    Sample(f64),
    #[error("telemetry.traces.headers.{0}: {1}")]
    Header(String, &'static str),
    #[error("telemetry.traces.headers.{0}: {1}")]
    Secret(String, ConfigError),
    #[error(
        "telemetry.traces.headers: secrets go to {0} in the clear: use https, or a collector on this machine"
    )]
    Clear(String),
    #[error("telemetry.traces.ca: {0}: {1}")]
    Authority(PathBuf, String),
    #[error("telemetry.traces: {0}")]
    Exporter(String),
}

/// Where spans go.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    group: String,
}

impl Traces {
    /// `exports` counts by outcome.
    pub fn start(
        config: &config::Config,
        traces: &config::Traces,
        exports: IntCounterVec,
    ) -> Result<Traces, TracesError> {
        let http = Http::new(traces, &config.folder)?;
        let client = Collector { http, exports, failing: AtomicBool::new(false) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&traces.endpoint)
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| TracesError::Exporter(error.to_string()))?;
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let mut about = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
        about.extend(config.name.clone().map(|name| KeyValue::new("service.instance.id", name)));
        let resource =
            Resource::builder().with_service_name("veilstream").with_attributes(about).build();
        let own = Sampler::TraceIdRatioBased(traces.sample);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(own)))
            .with_resource(resource)
            .build();
        Ok(Traces {
            tracer: provider.tracer("veilstream"),
            propagator: TraceContextPropagator::new(),
            group: config.kafka.group.clone(),
            provider,
        })
    }

    /// Whether [`start`](Traces::start) would do.
    pub fn check(traces: &config::Traces, folder: &Path) -> Result<(), TracesError> {
        Http::new(traces, folder).map(|_| ())
    }

    /// Of the producer, if it sent one, and one only.
    fn parent(&self, headers: &[Header<'_>]) -> Option<SpanContext> {
        let mut sent = headers.iter().filter(|(name, _)| *name == TRACEPARENT);
        let (Some((_, Some(value))), None) = (sent.next(), sent.next()) else { return None };
        let text = str::from_utf8(value).ok().filter(|text| has_shape(text.as_bytes()))?;
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), text.to_owned())]);
        let context = self.propagator.extract_with_context(&Context::new(), &carrier);
        let found = context.span().span_context().clone();
        found.is_valid().then_some(found)
    }

    /// Sends what is left, if the collector takes it soon.
    pub fn stop(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The lengths of its parts, of which the propagator takes any: `00-TRACE-SPAN-FLAGS`, and more in later versions.
fn has_shape(text: &[u8]) -> bool {
    let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
    let end = match text.get(55) {
        None => text.len() == 55,
        Some(next) => *next == b'-' && !text.starts_with(b"00"),
    };
    dashes && end
}

fn written(context: &SpanContext) -> TraceParent {
    let (trace, span) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
    TraceParent::new(trace, span, context.is_sampled())
}

/// The spans of one transaction.
pub struct Transaction {
    traces: Arc<Traces>,
    context: Context,
    records: Vec<Span>,
}

impl Transaction {
    pub fn begin(traces: &Arc<Traces>, lane: usize) -> Transaction {
        let span = SpanBuilder::from_name("transaction").with_attributes([
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.consumer.group.name", traces.group.clone()),
            KeyValue::new("veilstream.lane", lane as i64),
        ]);
        let span = traces.tracer.build_with_context(span, &Context::new());
        Transaction {
            traces: Arc::clone(traces),
            context: Context::new().with_span(span),
            records: Vec::new(),
        }
    }

    /// A part of it that began then and ends now.
    pub fn stage(&self, name: &'static str, began: SystemTime) {
        if self.context.span().is_recording() {
            let span = SpanBuilder::from_name(name).with_start_time(began);
            self.traces.tracer.build_with_context(span, &self.context).end();
        }
    }

    /// A record is at work; what its outputs are to carry, if its producer traces it.
    pub fn record(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        headers: &[Header<'_>],
    ) -> Option<(TraceParent, Recorded)> {
        let parent = self.traces.parent(headers)?;
        if !parent.is_sampled() || self.records.len() >= MOST_RECORDS {
            return Some((written(&parent), Recorded(None)));
        }
        let transaction = self.context.span().span_context().clone();
        let links = transaction.is_sampled().then(|| Link::with_context(transaction));
        let span = SpanBuilder::from_name(format!("process {topic}"))
            .with_kind(SpanKind::Consumer)
            .with_links(links.into_iter().collect())
            .with_attributes([
                KeyValue::new("messaging.system", "kafka"),
                KeyValue::new("messaging.operation.name", "process"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.consumer.group.name", self.traces.group.clone()),
                KeyValue::new("messaging.destination.name", topic.to_owned()),
                KeyValue::new("messaging.destination.partition.id", partition.to_string()),
                KeyValue::new("messaging.kafka.offset", offset),
            ]);
        let context = Context::new().with_remote_span_context(parent);
        let span = self.traces.tracer.build_with_context(span, &context);
        let carried = written(span.span_context());
        self.records.push(span);
        Some((carried, Recorded(Some(self.records.len() - 1))))
    }

    /// What became of a record.
    pub fn fate(&mut self, recorded: &Recorded, policy: &str, failure: Option<&Failure>) {
        let Some(span) = recorded.0.and_then(|at| self.records.get_mut(at)) else { return };
        let outcome = failure.map_or("published", |_| "quarantined");
        span.set_attribute(KeyValue::new("veilstream.policy", policy.to_owned()));
        span.set_attribute(KeyValue::new("veilstream.outcome", outcome));
        if let Some(failure) = failure {
            span.set_attribute(KeyValue::new("error.type", failure.reason.code()));
            span.set_status(Status::error(failure.reason.code()));
        }
    }

    /// All of it is visible now, or nothing. How many records it took.
    pub fn end(mut self, outcome: Result<usize, ()>) {
        let own = self.context.span();
        match outcome {
            Ok(records) => {
                own.set_attribute(KeyValue::new("messaging.batch.message_count", records as i64));
            }
            Err(()) => {
                own.set_status(Status::error("aborted"));
                for span in &mut self.records {
                    span.set_status(Status::error("aborted"));
                }
            }
        }
        own.end();
    }
}

/// The span of a record, where it has one.
pub struct Recorded(Option<usize>);

/// How the collector is reached.
#[derive(Debug)]
struct Http {
    agent: ureq::Agent,
    headers: HeaderMap,
}

impl Http {
    fn new(traces: &config::Traces, folder: &Path) -> Result<Http, TracesError> {
        if !(0.0..=1.0).contains(&traces.sample) {
            return Err(TracesError::Sample(traces.sample));
        }
        let endpoint = Endpoint::parse(&traces.endpoint).ok_or(TracesError::Endpoint)?;
        if !endpoint.is_safe() && !traces.headers.is_empty() {
            return Err(TracesError::Clear(endpoint.host));
        }
        let mut headers = HeaderMap::new();
        for (name, secret) in &traces.headers {
            let of = |why| TracesError::Header(name.clone(), why);
            let secret =
                secret.read(folder).map_err(|error| TracesError::Secret(name.clone(), error))?;
            let key: HeaderName = name.parse().map_err(|_| of("no name of an HTTP header"))?;
            let mut value: HeaderValue =
                secret.expose().parse().map_err(|_| of("not to be sent in an HTTP header"))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let authorities = traces.ca.as_ref().map(|file| folder.join(file));
        let agent = outbound::agent(authorities.as_deref(), PATIENCE)
            .map_err(|why| TracesError::Authority(authorities.unwrap_or_default(), why))?;
        Ok(Http { agent, headers })
    }

    fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        // Others come from the environment, by way of the exporter: they were not looked at.
        let kind = request.headers_mut().remove(CONTENT_TYPE);
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().extend(kind.map(|kind| (CONTENT_TYPE, kind)));
        let (parts, body) = self.agent.run(request.map(|body| body.to_vec()))?.into_parts();
        let body = body.into_with_config().limit(64 << 10).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(body)))
    }
}

/// The collector. A span that it does not take is lost: no record waits for it.
#[derive(Debug)]
struct Collector {
    http: Http,
    exports: IntCounterVec,
    failing: AtomicBool,
}

#[async_trait]
impl HttpClient for Collector {
    /// Called on the exporter's own thread, which may wait.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.send(request);
        let why = match &answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let outcome = why.as_ref().map_or("sent", |_| "failed");
        self.exports.with_label_values(&[outcome]).inc();
        match (why, self.failing.load(Ordering::Relaxed)) {
            (Some(why), false) => tracing::warn!("the collector does not take traces: {why}"),
            (None, true) => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        self.failing.store(outcome == "failed", Ordering::Relaxed);
        Ok(answer?)
    }
}
