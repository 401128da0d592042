//! From a URL and an environment to a client.

use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};
use url::Url;

use super::backend::{Backend, Directory, IDLE_CONNECTION, Remote};
use super::error::StoreError;
use super::url::{Location, StoreUrl};

type Environment = [(String, String)];

/// S3 deletes up to 1,000 objects with one request; `object_store` does not do so on the others.
const S3_DELETES_AT_ONCE: usize = 1000;
const AZURE_DELETES_AT_ONCE: usize = 256;

pub(super) fn backend(url: &StoreUrl, environment: &Environment) -> Result<Box<dyn Backend>, StoreError> {
    Ok(match url.location() {
        Location::Directory(path) => {
            let absolute = std::path::absolute(path).map_err(|e| StoreError::Config {
                url: url.to_string(),
                reason: format!("the current directory cannot be told: {e}"),
                source: Some(e.into()),
            })?;
            Box::new(Directory::new(absolute))
        }
        Location::Memory => Box::new(Remote::plain(Arc::new(InMemory::new()))),
        Location::S3 { .. } => Box::new(s3(url, environment)?),
        Location::Gcs { .. } => Box::new(gcs(url, environment)?),
        Location::Azure { .. } => Box::new(azure(url, environment)?),
    })
}

fn s3(url: &StoreUrl, environment: &Environment) -> Result<Remote, StoreError> {
    let Location::S3 { bucket, prefix, endpoint, region, path_style } = url.location() else {
        unreachable!("called for S3 only")
    };
    prepare_tls();
    let mut builder = AmazonS3Builder::new().with_retry(never());
    for (key, value) in client_settings() {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    for (key, value) in settings::<AmazonS3ConfigKey>(environment, "AWS_") {
        builder = builder.with_config(key, value);
    }
    builder = builder.with_bucket_name(bucket);
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(path_style) = path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    if let Some(endpoint) = endpoint {
        let endpoint = match path_style {
            Some(false) => with_bucket_in_host(endpoint, bucket),
            _ => endpoint.clone(),
        };
        // Set under both keys: AWS_ENDPOINT_URL_S3 would win over the URL otherwise.
        builder = builder
            .with_config(AmazonS3ConfigKey::S3Endpoint, without_slash(&endpoint))
            .with_endpoint(without_slash(&endpoint))
            .with_allow_http(endpoint.scheme() == "http");
    }
    let client = builder.build().map_err(|e| config(url, e))?;
    Ok(Remote::cloud(Arc::new(client), prefix, S3_DELETES_AT_ONCE))
}

fn gcs(url: &StoreUrl, environment: &Environment) -> Result<Remote, StoreError> {
    let Location::Gcs { bucket, prefix, endpoint } = url.location() else {
        unreachable!("called for GCS only")
    };
    prepare_tls();
    let mut builder = GoogleCloudStorageBuilder::new().with_retry(never());
    for (key, value) in client_settings() {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    for (key, value) in settings::<GoogleConfigKey>(environment, "GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    builder = builder.with_bucket_name(bucket);
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_base_url(without_slash(endpoint))
            .with_config(GoogleConfigKey::Client(ClientConfigKey::AllowHttp), allow_http(endpoint));
    }
    let client = builder.build().map_err(|e| config(url, e))?;
    Ok(Remote::cloud(Arc::new(client), prefix, 1))
}

fn azure(url: &StoreUrl, environment: &Environment) -> Result<Remote, StoreError> {
    let Location::Azure { container, prefix, account, endpoint } = url.location() else {
        unreachable!("called for Azure only")
    };
    prepare_tls();
    let mut builder = MicrosoftAzureBuilder::new().with_retry(never());
    for (key, value) in client_settings() {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    for (key, value) in settings::<AzureConfigKey>(environment, "AZURE_") {
        builder = builder.with_config(key, value);
    }
    builder = builder.with_container_name(container);
    if let Some(account) = account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_endpoint(without_slash(endpoint).to_owned())
            .with_config(AzureConfigKey::Client(ClientConfigKey::AllowHttp), allow_http(endpoint));
    }
    if builder.get_config_value(&AzureConfigKey::AccountName).is_none() {
        return Err(StoreError::Config {
            url: url.to_string(),
            reason: "no storage account: add ?account=… to the URL or set AZURE_STORAGE_ACCOUNT_NAME"
                .to_owned(),
            source: None,
        });
    }
    let client = builder.build().map_err(|e| config(url, e))?;
    Ok(Remote::cloud(Arc::new(client), prefix, AZURE_DELETES_AT_ONCE).without_suffixes())
}

/// What every cloud's client is set to, unless the environment says otherwise.
fn client_settings() -> [(ClientConfigKey, String); 3] {
    [
        (ClientConfigKey::ConnectTimeout, "5s".to_owned()),
        // Only a bound for what is started without one: a `Store` limits each attempt by its payload.
        (ClientConfigKey::Timeout, "1h".to_owned()),
        (ClientConfigKey::PoolIdleTimeout, format!("{}s", IDLE_CONNECTION.as_secs())),
    ]
}

/// The environment variables that configure a cloud: those of this prefix that its client knows.
fn settings<'a, K: FromStr>(
    environment: &'a Environment,
    prefix: &'a str,
) -> impl Iterator<Item = (K, &'a str)> {
    environment
        .iter()
        .filter(move |(name, _)| name.starts_with(prefix))
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value.as_str())))
}

/// Retries are the `Store`'s.
fn never() -> RetryConfig {
    RetryConfig { max_retries: 0, backoff: BackoffConfig::default(), ..RetryConfig::default() }
}

/// The TLS code asks the process for its cryptography. A program that embeds us may have chosen already.
fn prepare_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn without_slash(endpoint: &Url) -> &str {
    endpoint.as_str().trim_end_matches('/')
}

fn allow_http(endpoint: &Url) -> String {
    (endpoint.scheme() == "http").to_string()
}

fn with_bucket_in_host(endpoint: &Url, bucket: &str) -> Url {
    let mut with_bucket = endpoint.clone();
    let host = format!("{bucket}.{}", endpoint.host_str().unwrap_or_default());
    // An endpoint by address has no names below it: then it stays as it is and the server will say so.
    let _ = with_bucket.set_host(Some(&host));
    with_bucket
}

fn config(url: &StoreUrl, error: object_store::Error) -> StoreError {
    StoreError::Config { url: url.to_string(), reason: error.to_string(), source: Some(error.into()) }
}
