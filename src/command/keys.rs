//! `veilstream keys`: the keys of a keyset file or a key store.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, OrUsage};
use crate::config::{Config, KeyStore};
use crate::crypto::{KeyId, Purpose};
use crate::keys::kek::{self, Kek};
use crate::keys::{ChangeError, Key, Keyset, Ring, RingError, Status, USES};

/// Make, list and change keys
#[derive(Subcommand)]
pub enum Keys {
    /// Make a keyset file, readable by its owner alone, or what the configuration names; nothing is overwritten
    Init {
        #[command(flatten)]
        at: At,
    },
    /// List keys, without the keys themselves
    List {
        #[command(flatten)]
        at: At,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Make a new primary key; the old one still opens what it sealed
    Rotate {
        /// What the key is for
        purpose: Rotated,
        #[command(flatten)]
        at: At,
    },
    /// Let an old version open nothing, until it is enabled again
    Disable {
        #[command(flatten)]
        which: Which,
    },
    /// Let a disabled version open again
    Enable {
        #[command(flatten)]
        which: Which,
    },
    /// Destroy an old version: what it alone sealed opens no more, ever
    Destroy {
        #[command(flatten)]
        which: Which,
        /// Do it: it cannot be undone
        #[arg(long)]
        yes: bool,
    },
    /// Destroy an old version of the key file's key: copies of the database from before open no more, ever
    DestroyKek {
        /// Its version, as `keys list` shows it: 1 of `file/1`
        version: u32,
        /// The worker's configuration
        #[arg(short, long)]
        config: PathBuf,
        /// Do it: it cannot be undone
        #[arg(long)]
        yes: bool,
    },
    /// Seal all keys of a key store anew, by the newest key-encryption key and the newest wrapping key
    Rewrap {
        /// The worker's configuration
        #[arg(short, long)]
        config: PathBuf,
        /// A configuration with the provider, or the key of it, that sealed them until now: to change to another
        #[arg(long)]
        from: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct At {
    /// A keyset file
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The worker's configuration: its keyset file or key store
    #[arg(short, long, conflicts_with = "file")]
    config: Option<PathBuf>,
}

#[derive(Args)]
pub struct Which {
    /// The key, as `keys list` shows it
    #[arg(value_parser = |text: &str| text.parse::<KeyId>().map_err(|()| "32 hexadecimal digits, as `keys list` shows them"))]
    key: KeyId,
    /// Its version
    version: u32,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Rotated {
    /// `encrypt` under random nonces
    Field,
    /// `encrypt: deterministic` and `fpe`: equal values look different from then on, and record keys change
    Deterministic,
    /// `tokenize` and `hash`: joins with older records end, and record keys change
    Token,
    /// Records in quarantine
    Quarantine,
    /// Digests of unclassified names
    Digest,
    /// What seals the keys of data subjects; `rewrap` afterwards
    Wrap,
    /// The provider's own key, where that is a file; `rewrap` afterwards
    Kek,
}

impl Rotated {
    fn purpose(self) -> Option<Purpose> {
        match self {
            Rotated::Field => Some(Purpose::Field),
            Rotated::Deterministic => Some(Purpose::Deterministic),
            Rotated::Token => Some(Purpose::Token),
            Rotated::Quarantine => Some(Purpose::Quarantine),
            Rotated::Digest => Some(Purpose::Digest),
            Rotated::Wrap => Some(Purpose::Wrap),
            Rotated::Kek => None,
        }
    }
}

/// Where keys are.
enum Place {
    File(PathBuf),
    Store { told: Box<KeyStore>, folder: PathBuf },
}

impl At {
    fn place(&self) -> Result<Place, Exit> {
        match (&self.config, &self.file) {
            (Some(config), _) => Place::of(config),
            (None, file) => Ok(Place::File(file.clone().unwrap_or_default())),
        }
    }
}

impl Place {
    fn of(config: &std::path::Path) -> Result<Place, Exit> {
        let config = Config::load(config).or_usage()?;
        Ok(match (config.key_store, config.keys) {
            (Some(told), _) => Place::Store { told: Box::new(told), folder: config.folder },
            (None, file) => Place::File(config.folder.join(file.unwrap_or_default())),
        })
    }

    fn store(self) -> Result<(Box<KeyStore>, PathBuf), Exit> {
        match self {
            Place::Store { told, folder } => Ok((told, folder)),
            Place::File(_) => {
                Err(Exit::Usage(anyhow!("a keyset file is not sealed: this is of a key store")))
            }
        }
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Keyset) -> Result<T, ChangeError>,
    ) -> Result<T, Exit> {
        match self {
            Place::File(file) => Keyset::change(file, change).or_usage(),
            Place::Store { told, folder } => Ok(opened(Ring::open(told, folder))?.change(change)?),
        }
    }
}

impl Keys {
    pub fn run(self) -> Result<(), Exit> {
        match self {
            Keys::Init { at } => init(&at.place()?),
            Keys::List { at, json } => list(&at.place()?, json),
            Keys::Rotate { purpose, at } => rotate(purpose, &at.place()?),
            Keys::Disable { which } => set(&which, Status::Disabled),
            Keys::Enable { which } => set(&which, Status::Enabled),
            Keys::Destroy { which, yes: true } => set(&which, Status::Destroyed),
            Keys::Destroy { which, yes: false } => Err(Exit::Usage(anyhow!(
                "what {} version {} sealed will open no more, ever: say --yes",
                which.key,
                which.version
            ))),
            Keys::DestroyKek { version, yes: false, .. } => Err(Exit::Usage(anyhow!(
                "what version {version} sealed, in whatever copy, will open no more, ever: say --yes"
            ))),
            Keys::DestroyKek { version, config, yes: true } => {
                store(&config)?.destroy_kek(version)?;
                writeln!(std::io::stdout(), "version {version} is destroyed")?;
                Ok(())
            }
            Keys::Rewrap { config, from: None } => rewrap(&store(&config)?, None),
            Keys::Rewrap { config, from: Some(from) } => {
                let (told, folder) = Place::of(&config)?.store()?;
                let (before, at) = Place::of(&from)?.store()?;
                let new = kek::open(&told.kek, &folder).or_usage()?;
                let old = kek::open(&before.kek, &at).or_usage()?;
                rewrap(&opened(Ring::open_by(&told, &folder, old))?, Some(new.as_ref()))
            }
        }
    }
}

/// A database or a provider that is away is no wrong configuration: to try again may help.
fn opened(ring: Result<Ring, RingError>) -> Result<Ring, Exit> {
    ring.map_err(|error| match error.is_passing() {
        true => Exit::Failed(error.into()),
        false => Exit::Usage(error.into()),
    })
}

fn store(config: &std::path::Path) -> Result<Ring, Exit> {
    let (told, folder) = Place::of(config)?.store()?;
    opened(Ring::open(&told, &folder))
}

fn init(place: &Place) -> Result<(), Exit> {
    let mut out = std::io::stdout();
    match place {
        Place::File(file) => {
            Keyset::generate().create(file).or_usage()?;
            writeln!(out, "{}: made, mode 0600", file.display())?;
            writeln!(
                out,
                "Keep a copy in a safe place: without it, nothing that was encrypted can be opened."
            )?;
        }
        Place::Store { told, folder } => {
            let ring = Ring::create(told, folder).or_usage()?;
            writeln!(out, "{} keys made", ring.list().count())?;
            if let Some(file) = &told.kek.file {
                writeln!(
                    out,
                    "Keep a copy of {} and its passphrase in a safe place, apart from copies of the database: without \
                     them, nothing that was encrypted can be opened.",
                    folder.join(&file.path).display()
                )?;
            }
        }
    }
    Ok(())
}

fn list(place: &Place, json: bool) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    let row = |key: &Key, kek: Option<&str>, uses: Option<u64>| {
        serde_json::json!({
            "key": key.id.to_string(), "version": key.version, "purpose": key.purpose.name(),
            "status": key.status.name(), "sealed_by": kek, "uses": uses,
        })
    };
    let (keys, subjects): (Vec<_>, _) = match place {
        Place::File(file) => {
            let keyset = Keyset::load(file).or_usage()?;
            (keyset.keys.iter().map(|key| row(key, None, None)).collect(), None)
        }
        Place::Store { told, folder } => {
            let ring = opened(Ring::open(told, folder))?;
            let keys = ring.list().map(|(key, kek, uses)| row(key, Some(kek), Some(uses)));
            (keys.collect(), Some(ring.count()?))
        }
    };
    if json {
        let all = serde_json::json!({
            "keys": keys, "subjects": subjects, "uses_at_most": USES,
        });
        writeln!(out, "{all:#}")?;
        return Ok(());
    }
    let columns = match subjects {
        None => &["key", "version", "purpose", "status"][..],
        Some(_) => &["key", "version", "purpose", "status", "sealed_by", "uses"],
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|name| name.replace('_', " ")));
    for key in &keys {
        let cell = |name: &&str| match key.get(*name) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        table.add_row(columns.iter().map(cell));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    writeln!(out, "{}", table.trim_fmt())?;
    if let Some(subjects) = subjects {
        writeln!(out, "data subjects: {subjects}")?;
    }
    Ok(())
}

fn rotate(purpose: Rotated, place: &Place) -> Result<(), Exit> {
    let mut out = std::io::stdout();
    match (purpose.purpose(), place) {
        (Some(Purpose::Wrap), Place::File(_)) | (None, Place::File(_)) => {
            Err(Exit::Usage(anyhow!("a keyset file has no such key: it belongs to a key store")))
        }
        (None, Place::Store { told, folder }) => {
            let name = opened(Ring::open(told, folder))?.rotate_kek()?;
            writeln!(
                out,
                "{name} seals from now on; run `veilstream keys rewrap` to have it seal what is there"
            )?;
            Ok(())
        }
        (Some(purpose), place) => {
            let key = place.change(|keyset| keyset.rotate(purpose).cloned())?;
            writeln!(out, "{} version {}: primary", key.id, key.version)?;
            let taken_up = match place {
                Place::File(_) => "Workers take it up at SIGHUP.",
                Place::Store { .. } => "Workers take it up within seconds.",
            };
            writeln!(out, "{taken_up}")?;
            Ok(())
        }
    }
}

fn set(which: &Which, status: Status) -> Result<(), Exit> {
    let key =
        which.at.place()?.change(|keyset| keyset.set(which.key, which.version, status).cloned())?;
    writeln!(std::io::stdout(), "{} version {}: {}", key.id, key.version, key.status.name())?;
    Ok(())
}

fn rewrap(ring: &Ring, by: Option<&dyn Kek>) -> Result<(), Exit> {
    ring.rewrap(by)?;
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    let style =
        ProgressStyle::with_template("{spinner} {human_pos} keys of data subjects, {per_sec}");
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let mut moved = 0;
    loop {
        let count = ring.rewrap_subjects()?;
        if count == 0 {
            break;
        }
        moved += count;
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    writeln!(
        std::io::stdout(),
        "{} keys sealed by the newest key-encryption key, {moved} of data subjects by the newest wrapping key",
        ring.list().count()
    )?;
    Ok(())
}
