//! `veilstream topics`: the topics that a worker needs, planned and made.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use super::{Exit, OrUsage};
use crate::cluster::{Difference, Why, differences, wanted};
use crate::config::Config;
use crate::kafka::{Admin, ClientSettings, ClusterState, KafkaProblem, TopicSpec};
use crate::plans::policies;

/// Plan and make the topics that a worker needs
#[derive(Subcommand)]
pub enum Topics {
    /// Show what would be made or changed; nothing is
    Plan(Place),
    /// Make and change it
    Apply(Place),
}

#[derive(Args)]
pub struct Place {
    /// The worker's configuration; its section `topics` says how topics should be
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
    /// For scripts
    #[arg(long)]
    json: bool,
}

impl Topics {
    pub fn run(self) -> Result<(), Exit> {
        let (place, apply) = match self {
            Topics::Plan(place) => (place, false),
            Topics::Apply(place) => (place, true),
        };
        let config = Config::load(&place.config).or_usage()?;
        let policies = policies(&config).or_usage()?;
        let settings = ClientSettings::new(&config).or_usage()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let admin = Admin::open(&settings).or_usage()?;
            let names = |cluster: &ClusterState| -> BTreeSet<String> {
                let all = wanted(&config, &policies, cluster);
                all.into_iter().map(|one| one.spec.name).collect()
            };
            let reached =
                |error: KafkaProblem| anyhow!("the cluster at {}: {error}", config.kafka.bootstrap);
            // Topics that a pattern matches are known when the cluster has been asked.
            let seen = admin.state(&BTreeSet::new()).await.map_err(reached)?;
            let cluster = admin.state(&names(&seen)).await.map_err(reached)?;
            let plan = differences(&wanted(&config, &policies, &cluster), &cluster);
            let mut out = std::io::stdout().lock();
            if place.json {
                writeln!(out, "{:#}", serde_json::to_value(&plan)?)?;
            }
            let mut failed = 0;
            for one in &plan {
                let done = match apply {
                    true => carry_out(&admin, &cluster, one).await,
                    false => Ok(()),
                };
                if !place.json {
                    show(&mut out, one)?;
                }
                if let Err(error) = done {
                    failed += 1;
                    eprintln!("veilstream: {}: {error}", one.topic());
                }
            }
            match failed {
                0 => Ok(()),
                _ => Err(Exit::Failed(anyhow!("{failed} topics are not as planned"))),
            }
        })
    }
}

async fn carry_out(
    admin: &Admin,
    cluster: &ClusterState,
    difference: &Difference,
) -> Result<(), KafkaProblem> {
    match difference {
        Difference::Create { topic } => admin.create(topic).await,
        Difference::Alter { topic, settings, .. } => match cluster.topics.get(topic) {
            Some(state) => admin.alter(topic, state, settings).await,
            None => Ok(()),
        },
        Difference::None { .. } | Difference::Left { .. } => Ok(()),
    }
}

fn show(out: &mut impl Write, difference: &Difference) -> std::io::Result<()> {
    let topic = difference.topic();
    match difference {
        Difference::None { .. } => writeln!(out, "  {topic}: as it should be"),
        Difference::Create { topic: TopicSpec { partitions, replicas, settings, .. } } => {
            let replicas = replicas.map_or("the broker's".into(), |replicas| replicas.to_string());
            writeln!(out, "+ {topic}: {partitions} partitions, {replicas} replicas")?;
            settings.iter().try_for_each(|(name, value)| writeln!(out, "      {name}={value}"))
        }
        Difference::Alter { settings, now, .. } => {
            writeln!(out, "~ {topic}")?;
            settings.iter().try_for_each(|(name, value)| {
                let now = now.get(name).map_or("", String::as_str);
                writeln!(out, "      {name}={value} (now {now})")
            })
        }
        Difference::Left { why, .. } => writeln!(out, "! {topic}: {}", reason(why)),
    }
}

fn reason(why: &Why) -> String {
    match why {
        Why::Source => "a source that is not there: its producer makes it, or `topics.each` says \
             how many partitions it has"
            .into(),
        Why::Partitions { now, wanted } => format!(
            "{now} partitions, should be {wanted}; left alone, since keys would move: make it anew"
        ),
        Why::Replicas { now, wanted } => {
            format!("{now} replicas, should be {wanted}; left alone: reassign its partitions")
        }
        Why::Set { setting, now, wanted } => {
            format!("{setting}={now}, should be {wanted}; left alone unless `topics.each` says so")
        }
        Why::Unseen => "its settings may not be seen: allow DESCRIBE_CONFIGS".into(),
    }
}
