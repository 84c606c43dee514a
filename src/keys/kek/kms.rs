//! AWS Key Management Service.

use std::path::Path;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kms::config::{ConfigBag, Intercept, Region, RuntimeComponents};
use aws_sdk_kms::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use zeroize::Zeroize;

use super::super::background::Background;
use super::{Kek, KekError, Sealed};
use crate::config;
use crate::crypto::Secret;
use crate::outbound::Endpoint;

const PROVIDER: &str = "AWS KMS";
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The member of the encryption context (AWS KMS Developer Guide, "Encryption context").
const CONTEXT: &str = "veilstream";

/// A symmetric key of KMS.
pub struct Kms {
    client: Client,
    background: Background,
    key: String,
}

fn refused(problem: impl Into<String>) -> KekError {
    KekError::Refused { provider: PROVIDER, problem: problem.into() }
}

fn away(problem: impl Into<String>) -> KekError {
    KekError::Away { provider: PROVIDER, problem: problem.into() }
}

impl Kms {
    pub fn new(told: &config::AwsKms, _folder: &Path) -> Result<Kms, KekError> {
        let wrong = |what: &str| Err(KekError::Setting(format!("`key_store.kek.aws_kms`: {what}")));
        if let Some(endpoint) = &told.endpoint {
            match Endpoint::parse(endpoint) {
                Some(endpoint) if endpoint.is_safe() => {}
                _ => return wrong("`endpoint` is an https URL, or an http one of this machine"),
            }
        }
        let started = Background::start("kms");
        let background = started.map_err(|error| KekError::Setting(error.to_string()))?;
        let (region, endpoint) = (told.region.clone(), told.endpoint.clone());
        let configured = background.wait(PATIENCE, async move {
            let http =
                Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
            let timeouts = TimeoutConfig::builder().operation_timeout(PATIENCE).build();
            let mut loader = aws_config::defaults(BehaviorVersion::latest())
                .http_client(http)
                // Asked again by who asks for a key.
                .retry_config(RetryConfig::disabled())
                .timeout_config(timeouts);
            if let Some(region) = region {
                loader = loader.region(Region::new(region));
            }
            if let Some(endpoint) = endpoint {
                loader = loader.endpoint_url(endpoint);
            }
            loader.load().await
        });
        let configured = configured.ok_or_else(|| away("no credentials within 5 s"))?;
        if configured.region().is_none() {
            return wrong("`region`, or AWS_REGION in the environment");
        }
        let settings =
            aws_sdk_kms::config::Builder::from(&configured).interceptor(OnlySafe).build();
        Ok(Kms { client: Client::from_conf(settings), background, key: told.key.clone() })
    }

    fn wait<T, E, F>(&self, call: F) -> Result<T, KekError>
    where
        T: Send + 'static,
        E: ProvideErrorMetadata + Send + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send + 'static,
    {
        // A little longer than the call itself has: it says why.
        let done = self.background.wait(PATIENCE + Duration::from_secs(1), call);
        done.ok_or_else(|| away("no answer in time"))?.map_err(told)
    }
}

/// The environment and profiles may name another endpoint: a key is not sent to it in the clear.
#[derive(Debug)]
struct OnlySafe;

impl Intercept for OnlySafe {
    fn name(&self) -> &'static str {
        "OnlySafe"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        match Endpoint::parse(context.request().uri()) {
            Some(endpoint) if endpoint.is_safe() => Ok(()),
            _ => Err("the endpoint is no https URL".into()),
        }
    }
}

/// What went wrong, in KMS's codes and not its words.
fn told<E: ProvideErrorMetadata>(error: SdkError<E>) -> KekError {
    match &error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code().unwrap_or("unknown");
            let passing = [
                "ThrottlingException",
                "LimitExceededException",
                "KMSInternalException",
                "DependencyTimeoutException",
                "KeyUnavailableException",
            ];
            match status >= 500 || status == 429 || passing.contains(&code) {
                true => away(format!("{code}, status {status}")),
                false => refused(format!("{code}, status {status}")),
            }
        }
        SdkError::TimeoutError(_) => away("no answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => away("no answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_io() => away("no connection"),
        SdkError::DispatchFailure(_) => away("the request was not sent: are there credentials?"),
        SdkError::ResponseError(_) => away("an answer that is none of KMS's"),
        _ => refused("the request could not be made"),
    }
}

impl Kek for Kms {
    fn seal(&self, key: &[u8; 32], context: &str) -> Result<Sealed, KekError> {
        let call = self
            .client
            .encrypt()
            .key_id(&self.key)
            // The SDK does not wipe what it sends.
            .plaintext(Blob::new(key.as_slice()))
            .encryption_context(CONTEXT, context);
        let answer = self.wait(call.send())?;
        let sealed =
            answer.ciphertext_blob.ok_or_else(|| refused("an answer without ciphertext"))?;
        let name = answer.key_id.unwrap_or_else(|| self.key.clone());
        Ok(Sealed { kek: format!("aws-kms/{name}"), bytes: sealed.into_inner() })
    }

    fn open(&self, sealed: &[u8], context: &str) -> Result<Secret<[u8; 32]>, KekError> {
        let call = self
            .client
            .decrypt()
            .key_id(&self.key)
            .ciphertext_blob(Blob::new(sealed))
            .encryption_context(CONTEXT, context);
        let answer = self.wait(call.send())?;
        let plaintext = answer.plaintext.ok_or_else(|| refused("an answer without plaintext"))?;
        let mut bytes = plaintext.into_inner();
        let key = <[u8; 32]>::try_from(bytes.as_slice());
        bytes.zeroize();
        Ok(Secret::new(key.map_err(|_| refused("an answer that is no key"))?))
    }

    fn rotate(&self) -> Result<String, KekError> {
        let call = self.client.rotate_key_on_demand().key_id(&self.key);
        self.wait(call.send())?;
        Ok(format!("new material of {} in AWS KMS", self.key))
    }

    fn destroy(&self, _version: u32) -> Result<(), KekError> {
        Err(refused(
            "its key material is AWS's to keep: for copies of the database to open no more, change to \
             another key with `keys rewrap --from`, and delete the old one",
        ))
    }
}
