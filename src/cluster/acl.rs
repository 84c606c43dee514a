//! What Kafka is to allow, out of policies and roles: to the worker what it needs, to the principals of a role its
//! views, and nothing else. And who else may get at what is ours.

use std::collections::BTreeSet;

use serde::Serialize;

use super::wanted::{Kind, Wanted};
use crate::config::{Config, ConfigError, Delivery};
use crate::kafka::{Binding, ClusterState, Operation, Pattern, Permission, Resource, TopicState};
use crate::policy::Policy;
use crate::policy::roles::{Role, Roles};

/// Why there is no telling what is to be allowed.
#[derive(Debug, thiserror::Error)]
pub enum AclError {
    #[error(
        "nothing says who the worker is to Kafka: write `access.principal: 'User:NAME'`, or give \
         `kafka.security.sasl`"
    )]
    NoPrincipal,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "`{principal}` is the worker, and has the role `{role}`: whoever has it could read the raw topics. \
         Give the worker a user of its own"
    )]
    Shared { principal: String, role: String },
    #[error(
        "`{principal}`, with the role `{role}`, may use consumer groups called `{prefix}` or `{prefix}.…`, and the \
         worker's is `{group}`: give `kafka.group` another name"
    )]
    Group { principal: String, role: String, prefix: String, group: String },
}

/// Kafka's principal of the worker.
pub fn principal(config: &Config) -> Result<String, AclError> {
    if let Some(told) = config.access.as_ref().and_then(|access| access.principal.clone()) {
        return Ok(told);
    }
    let sasl = config.kafka.security.as_ref().and_then(|security| security.sasl.as_ref());
    let user = sasl.ok_or(AclError::NoPrincipal)?.username.read(&config.folder)?;
    Ok(format!("User:{}", user.expose()))
}

/// The principals whose ACLs are these and no others: the worker's, and those of roles.
pub fn managed(worker: &str, roles: &Roles) -> BTreeSet<String> {
    let of_roles = roles.roles.iter().flat_map(|role| role.principals.iter().cloned());
    of_roles.chain([worker.to_owned()]).collect()
}

/// The cluster, and with it the topics that the worker is allowed by name: whoever asks may not know of each topic that a
/// pattern claims, and what the worker reads must not be taken from it for that.
pub fn with_allowed(mut cluster: ClusterState, worker: &str, there: &[Binding]) -> ClusterState {
    let named = there.iter().filter(|one| {
        one.principal == worker
            && (one.permission, one.resource) == (Permission::Allow, Resource::Topic)
            && one.pattern == Pattern::Literal
            && one.name != "*"
    });
    for one in named {
        let unseen = TopicState { partitions: 0, replicas: 0, leaderless: 0, settings: None };
        cluster.topics.entry(one.name.clone()).or_insert(unseen);
    }
    cluster
}

/// Every ACL that there should be, in order. `topics` are all of the deployment.
pub fn wanted(
    config: &Config,
    policies: &[Policy],
    roles: &Roles,
    topics: &[Wanted],
    worker: &str,
) -> Result<Vec<Binding>, AclError> {
    use Operation::{Describe, DescribeConfigs, Read, Write};
    let mut all = BTreeSet::new();
    let mut allow = |principal: &str, resource, pattern, name: &str, operations: &[Operation]| {
        let of = |operation| Binding::allow(principal, resource, pattern, name, operation);
        all.extend(operations.iter().copied().map(of));
    };
    for Wanted { kind, spec, .. } in topics {
        let access = if kind.is_read() { Read } else { Write };
        let operations = [access, Describe, DescribeConfigs];
        allow(worker, Resource::Topic, Pattern::Literal, &spec.name, &operations);
        // Whom it forgets, it looks for in the views; what it holds, it reads again when it starts.
        let back = *kind == Kind::View && config.key_store.is_some() || *kind == Kind::State;
        if back {
            allow(worker, Resource::Topic, Pattern::Literal, &spec.name, &[Read]);
        }
    }
    let group = &config.kafka.group;
    allow(worker, Resource::Group, Pattern::Literal, group, &[Read]);
    if config.erasure.is_some() {
        let group = format!("{group}-erasure");
        allow(worker, Resource::Group, Pattern::Literal, &group, &[Read]);
    }
    if config.delivery == Delivery::ExactlyOnce {
        // GROUP-NAME-LANE. The name is another one for each worker of the group, and random where there is none.
        let prefix = format!("{group}-");
        allow(worker, Resource::TransactionalId, Pattern::Prefixed, &prefix, &[Write, Describe]);
    }
    for role in &roles.roles {
        for principal in &role.principals {
            if principal == worker {
                let (principal, role) = (principal.clone(), role.name.clone());
                return Err(AclError::Shared { principal, role });
            }
            let topics = views(role, policies);
            if topics.is_empty() {
                continue;
            }
            for topic in topics {
                allow(principal, Resource::Topic, Pattern::Literal, topic, &[Read, Describe]);
            }
            let name = principal.split_once(':').map_or(principal.as_str(), |(_, name)| name);
            let prefix = format!("{name}.");
            if group == name || group.starts_with(&prefix) {
                return Err(AclError::Group {
                    principal: principal.clone(),
                    role: role.name.clone(),
                    prefix: name.to_owned(),
                    group: group.clone(),
                });
            }
            allow(principal, Resource::Group, Pattern::Literal, name, &[Read]);
            allow(principal, Resource::Group, Pattern::Prefixed, &prefix, &[Read]);
        }
    }
    Ok(all.into_iter().collect())
}

/// The topics of the views that a role reads.
fn views<'p>(role: &Role, policies: &'p [Policy]) -> Vec<&'p str> {
    let view = |policy: &str, view: &str| {
        let policy = policies.iter().find(|one| one.name == policy)?;
        policy.views.iter().find(|one| one.name == view).map(|view| view.topic.as_str())
    };
    role.views.iter().filter_map(|name| view(&name.policy, &name.view)).collect()
}

/// How the cluster differs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub missing: Vec<Binding>,
    pub kept: Vec<Binding>,
    /// What managed principals have and should not.
    pub excess: Vec<Binding>,
    /// What is denied to anybody. It is stronger than whatever is allowed, and somebody meant it: nothing here makes or
    /// removes it.
    pub denied: Vec<Binding>,
}

/// Both in order.
pub fn compare(wanted: &[Binding], managed: &BTreeSet<String>, there: &[Binding]) -> Comparison {
    let there: BTreeSet<&Binding> = there.iter().collect();
    let mut comparison = Comparison::default();
    for one in wanted {
        let list = match there.contains(one) {
            true => &mut comparison.kept,
            false => &mut comparison.missing,
        };
        list.push(one.clone());
    }
    for one in there {
        match one.permission {
            Permission::Deny => comparison.denied.push(one.clone()),
            _ if managed.contains(&one.principal) && !wanted.contains(one) => {
                comparison.excess.push(one.clone());
            }
            _ => {}
        }
    }
    comparison
}

/// What somebody who is not managed here may do with topics of ours.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Outsider {
    #[serde(flatten)]
    pub binding: Binding,
    pub topics: Vec<Reached>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    pub topic: String,
    pub kind: Kind,
}

/// Who else may read what is ours, or write what only the worker should. Who writes sources is their producer.
pub fn outsiders(
    managed: &BTreeSet<String>,
    topics: &[Wanted],
    there: &[Binding],
) -> Vec<Outsider> {
    let others: BTreeSet<&Binding> = there
        .iter()
        .filter(|one| one.permission != Permission::Deny && !managed.contains(&one.principal))
        .collect();
    let of_one = |binding: &Binding| {
        let reached = topics.iter().filter(|topic| {
            let matters = match binding.operation {
                Operation::Read | Operation::All => true,
                Operation::Write => !topic.kind.is_read(),
                _ => false,
            };
            matters && binding.covers(&topic.spec.name)
        });
        let reached = reached.map(|one| Reached { topic: one.spec.name.clone(), kind: one.kind });
        Outsider { binding: binding.clone(), topics: reached.collect() }
    };
    others.into_iter().map(of_one).filter(|one| !one.topics.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails where it should")]

    use std::path::Path;

    use super::*;
    use crate::cluster;

    const CONFIG: &str = "
kafka: { bootstrap: 'localhost:9092', group: sanitizer }
policies: [p.yaml]
keys: keys.json
quarantine: { topic: q }
audit: { topic: a }
";
    const POLICY: &str = "
policy: crm
version: 1
source: { topic: raw, format: json }
subject: id
fields: { id: identifier }
views:
  fraud: { topic: fraud, default: keep, key: drop }
  support: { topic: support, default: keep, key: drop }
";
    const ROLES: &str = "
roles:
  analyst: { views: crm/support, principals: ['User:ann', 'User:bob'] }
  investigator: { views: [crm/fraud, crm/support], principals: 'User:bob' }
  idle: { views: crm/fraud }
  privacy: { erase: true, principals: 'User:eve' }
";
    const WORKER: &str = "User:worker";

    struct Case {
        config: Config,
        policies: Vec<Policy>,
        roles: Roles,
        topics: Vec<Wanted>,
    }

    impl Case {
        fn new(config: &str, policy: &str, roles: &str) -> Case {
            let config: Config = serde_saphyr::from_str(config).unwrap();
            let read = |_: &Path| Ok(policy.to_owned());
            let policies = vec![Policy::load_with(Path::new("p.yaml"), &read).unwrap()];
            let read = |_: &Path| Ok(roles.to_owned());
            let roles =
                Roles::load_with(Path::new("r.yaml"), &[policies.first().unwrap()], &read).unwrap();
            let state = || TopicState { partitions: 1, replicas: 1, leaderless: 0, settings: None };
            let topics = ["raw", "raw.eu", "other"].map(|name| (name.to_owned(), state()));
            let cluster = ClusterState { brokers: 1, topics: topics.into() };
            let topics = cluster::wanted(&config, &policies, &cluster);
            Case { config, policies, roles, topics }
        }

        fn wanted(&self) -> Result<Vec<Binding>, AclError> {
            wanted(&self.config, &self.policies, &self.roles, &self.topics, WORKER)
        }

        /// Of one principal, as `TOPIC raw READ`; a prefix ends with `*`.
        fn of(&self, principal: &str) -> Vec<String> {
            let shown = |one: Binding| {
                assert_eq!((one.permission, one.host.as_str()), (Permission::Allow, "*"));
                assert_ne!(one.name, "*");
                let prefix = if one.pattern == Pattern::Prefixed { "*" } else { "" };
                let operation: &str = one.operation.into();
                format!("{:?} {}{prefix} {operation}", one.resource, one.name)
            };
            let all = self.wanted().unwrap().into_iter();
            all.filter(|one| one.principal == principal).map(shown).collect()
        }
    }

    #[test]
    fn the_worker_gets_what_it_needs_and_no_more() {
        let case = Case::new(CONFIG, POLICY, ROLES);
        let mut expected: Vec<String> =
            ["a WRITE", "fraud WRITE", "q WRITE", "raw READ", "support WRITE"]
                .iter()
                .flat_map(|one| {
                    let (topic, _) = one.split_once(' ').unwrap();
                    [one, &*format!("{topic} DESCRIBE"), &*format!("{topic} DESCRIBE_CONFIGS")]
                        .map(|one| format!("Topic {one}"))
                })
                .collect();
        expected.extend(
            ["Group sanitizer READ", "TransactionalId sanitizer-* WRITE"].map(str::to_owned),
        );
        expected.push("TransactionalId sanitizer-* DESCRIBE".into());
        assert_eq!(case.of(WORKER), expected);
        let case = Case::new(&format!("{CONFIG}\ndelivery: at-least-once"), POLICY, ROLES);
        assert!(!case.of(WORKER).iter().any(|one| one.starts_with("TransactionalId")));
    }

    #[test]
    fn whoever_forgets_people_reads_views_and_requests() {
        let store =
            "key_store: { sqlite: k.db, kek: { file: { path: k, passphrase: { env: P } } } }";
        let config = CONFIG.replace("keys: keys.json", store) + "erasure: { topic: forget }\n";
        let case = Case::new(&config, POLICY, ROLES);
        let before = Case::new(CONFIG, POLICY, ROLES).of(WORKER);
        let more: Vec<_> =
            case.of(WORKER).into_iter().filter(|one| !before.contains(one)).collect();
        let expected = [
            "Topic forget READ",
            "Topic forget DESCRIBE",
            "Topic forget DESCRIBE_CONFIGS",
            "Topic fraud READ",
            "Topic support READ",
            "Group sanitizer-erasure READ",
        ];
        assert_eq!(
            more.iter().collect::<BTreeSet<_>>(),
            expected.map(str::to_owned).iter().collect()
        );
    }

    #[test]
    fn a_pattern_is_allowed_as_the_topics_that_match_it() {
        let policy = POLICY.replace("topic: raw,", "topic: '^raw',");
        let case = Case::new(CONFIG, &policy, ROLES);
        let reads: Vec<_> =
            case.of(WORKER).into_iter().filter(|one| one.ends_with("READ")).collect();
        assert_eq!(reads, ["Topic raw READ", "Topic raw.eu READ", "Group sanitizer READ"]);
    }

    #[test]
    fn a_topic_of_a_pattern_stays_allowed_where_it_is_not_seen() {
        let policy = POLICY.replace("topic: raw,", "topic: '^raw|^.$',");
        let case = Case::new(CONFIG, &policy, ROLES);
        let allow = |principal: &str, pattern, name: &str| {
            Binding::allow(principal, Resource::Topic, pattern, name, Operation::Read)
        };
        let there = [
            allow(WORKER, Pattern::Literal, "raw.us"),
            allow(WORKER, Pattern::Literal, "*"),
            allow(WORKER, Pattern::Prefixed, "raw.p"),
            allow(WORKER, Pattern::Literal, "no.source"),
            allow("User:other", Pattern::Literal, "raw.other"),
        ];
        let cluster = with_allowed(ClusterState::default(), WORKER, &there);
        let topics = cluster::wanted(&case.config, &case.policies, &cluster);
        let sources = topics.iter().filter(|one| one.kind == Kind::Source);
        let names: Vec<_> = sources.map(|one| one.spec.name.as_str()).collect();
        assert_eq!(names, ["raw.us"]);
    }

    #[test]
    fn a_principal_gets_the_views_of_its_roles_and_groups_of_its_name() {
        let case = Case::new(CONFIG, POLICY, ROLES);
        let groups = |name: &str| [format!("Group {name} READ"), format!("Group {name}.* READ")];
        let view = |name: &str| [format!("Topic {name} READ"), format!("Topic {name} DESCRIBE")];
        assert_eq!(case.of("User:ann"), [view("support"), groups("ann")].concat());
        // Of two roles, each once.
        let both = [view("fraud"), view("support"), groups("bob")].concat();
        assert_eq!(case.of("User:bob"), both);
        assert!(case.of("User:eve").is_empty());
        let all = case.wanted().unwrap();
        assert!(all.is_sorted());
        let of: BTreeSet<_> = all.into_iter().map(|one| one.principal).collect();
        assert_eq!(of, ["User:ann", "User:bob", WORKER].map(str::to_owned).into());
    }

    #[test]
    fn who_would_get_at_the_worker_is_refused() {
        let refused = |config: &str, roles: &str| {
            Case::new(config, POLICY, roles).wanted().unwrap_err().to_string()
        };
        let said = refused(CONFIG, &ROLES.replace("'User:ann'", "'User:worker'"));
        assert!(said.contains("is the worker, and has the role `analyst`"), "{said}");
        for group in ["ann", "ann.x"] {
            let said = refused(&CONFIG.replace("sanitizer", group), ROLES);
            assert!(said.contains("give `kafka.group` another name"), "{said}");
        }
        Case::new(&CONFIG.replace("sanitizer", "anna"), POLICY, ROLES).wanted().unwrap();
    }

    #[test]
    fn the_worker_is_who_the_configuration_says() {
        let case =
            |more: &str| -> Config { serde_saphyr::from_str(&format!("{CONFIG}{more}")).unwrap() };
        assert!(matches!(principal(&case("")), Err(AclError::NoPrincipal)));
        let told = case("access: { roles: r.yaml, principal: 'User:w' }");
        assert_eq!(principal(&told).unwrap(), "User:w");
        let sasl = "{ protocol: sasl_ssl, sasl: { mechanism: PLAIN, username: { env: PATH }, password: { env: X } } }";
        let text = CONFIG.replace("group: sanitizer", &format!("security: {sasl}"));
        let sasl: Config = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(principal(&sasl).unwrap(), format!("User:{}", std::env::var("PATH").unwrap()));
    }

    #[test]
    fn what_managed_principals_have_beyond_is_excess_and_others_are_left() {
        use Operation::{All, Read, Write};
        let case = Case::new(CONFIG, POLICY, ROLES);
        let wanted = case.wanted().unwrap();
        let managed = managed(WORKER, &case.roles);
        let topic = |principal: &str, pattern, name: &str, operation| {
            Binding::allow(principal, Resource::Topic, pattern, name, operation)
        };
        let excess = [
            topic("User:ann", Pattern::Literal, "*", Read),
            topic("User:ann", Pattern::Literal, "raw", Read),
            topic("User:ann", Pattern::Prefixed, "", Read),
            topic("User:eve", Pattern::Literal, "support", Read),
            topic(WORKER, Pattern::Literal, "q", All),
        ];
        let deny = Binding {
            permission: Permission::Deny,
            ..topic("User:ann", Pattern::Literal, "raw", Write)
        };
        let other = topic("User:other", Pattern::Literal, "raw", Read);
        let mut there = [excess.as_slice(), &wanted, &[deny.clone(), other]].concat();
        let gone = there.iter().position(|one| *one == *wanted.first().unwrap()).unwrap();
        there.remove(gone);
        there.reverse();
        let found = compare(&wanted, &managed, &there);
        assert_eq!(found.missing, wanted.get(..1).unwrap());
        assert_eq!(found.kept, wanted.get(1..).unwrap());
        assert_eq!(found.excess, excess);
        assert_eq!(found.denied, [deny]);
        assert_eq!(compare(&wanted, &managed, &wanted).kept, wanted);
    }

    #[test]
    fn an_outsider_reads_what_is_ours_or_writes_what_is_the_workers() {
        use Operation::{All, Create, Describe, Read, Write};
        let case = Case::new(CONFIG, POLICY, ROLES);
        let managed = managed(WORKER, &case.roles);
        for (principal, pattern, name, operation, expected) in [
            ("User:x", Pattern::Literal, "raw", Read, vec!["raw"]),
            ("User:x", Pattern::Literal, "raw", All, vec!["raw"]),
            ("User:x", Pattern::Literal, "raw", Write, vec![]),
            ("User:x", Pattern::Literal, "raw", Create, vec![]),
            ("User:x", Pattern::Literal, "raw", Describe, vec![]),
            ("User:x", Pattern::Literal, "raw.eu", Read, vec![]),
            ("User:x", Pattern::Literal, "fraud", Write, vec!["fraud"]),
            ("User:x", Pattern::Prefixed, "f", Read, vec!["fraud"]),
            ("User:x", Pattern::Prefixed, "other", Read, vec![]),
            ("User:*", Pattern::Literal, "q", Read, vec!["q"]),
            ("User:x", Pattern::Literal, "*", Write, vec!["fraud", "support", "q", "a"]),
            ("Group:x", Pattern::Literal, "*", Read, vec!["raw", "fraud", "support", "q", "a"]),
            ("User:ann", Pattern::Literal, "raw", Read, vec![]),
        ] {
            let one = Binding::allow(principal, Resource::Topic, pattern, name, operation);
            let group = Binding { resource: Resource::Group, ..one.clone() };
            let deny = Binding { permission: Permission::Deny, ..one.clone() };
            let found = outsiders(&managed, &case.topics, &[one.clone(), group, deny]);
            let topics: Vec<_> = found.iter().flat_map(|one| &one.topics).collect();
            let topics: Vec<_> = topics.iter().map(|one| one.topic.as_str()).collect();
            assert_eq!(topics, expected, "{one:?}");
        }
    }
}
