//! From `roles.yaml` to [`Roles`], checked against the policies that it speaks of.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path as FilePath;

use marked_yaml::Node;
use marked_yaml::types::{MarkedMappingNode, MarkedScalarNode, Span};

use super::super::diagnostic::{Diagnostics, Severity};
use super::super::model::Policy;
use super::super::roles::{Approval, Role, Roles, ViewName};
use super::{Parser, Read};
use crate::operator::Problem;

const KEYS: &[&str] = &["purposes", "roles", "users"];
const ROLE_KEYS: &[&str] = &["parent", "views", "reveal", "erase", "quarantine", "principals"];
const GRANT_KEYS: &[&str] = &["classes", "purposes", "approval"];

impl Roles {
    /// Reads and checks `file`; `policies` are all of the deployment.
    pub fn load(file: &FilePath, policies: &[&Policy]) -> Result<Roles, Diagnostics> {
        Roles::load_with(file, policies, &|path| std::fs::read_to_string(path))
    }

    /// As [`Roles::load`], with the file read by `read`.
    pub fn load_with(
        file: &FilePath,
        policies: &[&Policy],
        read: Read<'_>,
    ) -> Result<Roles, Diagnostics> {
        let mut parser = Parser::new(file, read);
        let roles = parser.open(file, None).and_then(|node| parser.roles(file, &node, policies));
        let mut errors = parser.found;
        debug_assert!(errors.iter().all(|remark| remark.severity == Severity::Error));
        errors.sort_by_key(|remark| (remark.line, remark.column));
        match roles {
            Some(roles) if errors.is_empty() => Ok(roles),
            _ => Err(Diagnostics(errors)),
        }
    }
}

impl Parser<'_> {
    fn roles(&mut self, file: &FilePath, node: &Node, policies: &[&Policy]) -> Option<Roles> {
        let map = self.mapping(node, "`purposes`, `roles` and `users`")?;
        self.only(map, KEYS, "a file of roles");
        let words = self.words(map.get_node("purposes"), "the name of a purpose");
        let purposes: Vec<String> = words
            .iter()
            .filter_map(|word| self.valid_name(word, "the name of a purpose"))
            .collect();
        let node = self.required(map, "roles", "`roles:`, by their names")?;
        let named = self.mapping(node, "roles by their names")?;
        let mut roles: Vec<(Span, Role)> = Vec::new();
        for (word, node) in named.iter() {
            let Some(name) = self.valid_name(word, "the name of a role") else { continue };
            if let Some(role) = self.role(name, node, &purposes, policies) {
                roles.push((*word.span(), role));
            }
        }
        for (_, node) in named.iter() {
            let parent = node.as_mapping().and_then(|map| map.get_scalar("parent"));
            self.known(parent, named.iter().map(|(word, _)| word.as_str()), "the name of a role");
        }
        for (span, role) in &roles {
            self.within_parent(span, role, &roles);
        }
        self.readers(named.span(), &roles, policies);
        let users = self.users(map.get_node("users"), &roles);
        Some(Roles {
            file: file.to_owned(),
            digest: self.hex_digest(),
            purposes,
            roles: roles.into_iter().map(|(_, role)| role).collect(),
            users,
        })
    }

    /// Whether `word` is one of `valid`; what is not is reported.
    fn known<'n>(
        &mut self,
        word: Option<&MarkedScalarNode>,
        valid: impl Iterator<Item = &'n str>,
        expected: &str,
    ) -> bool {
        let Some(word) = word else { return false };
        let valid: Vec<&str> = valid.collect();
        let known = valid.contains(&word.as_str());
        if !known {
            let problem = Problem::at(word.span(), format!("`{}`", word.as_str()), expected);
            self.error(problem.or_nearest(word.as_str(), valid));
        }
        known
    }

    fn role(
        &mut self,
        name: String,
        node: &Node,
        purposes: &[String],
        policies: &[&Policy],
    ) -> Option<Role> {
        let map = self.mapping(node, "a role: `views`, `reveal`, `erase`, `quarantine`")?;
        self.only(map, ROLE_KEYS, "a role");
        let parent =
            map.get_node("parent").and_then(|node| self.scalar(node, "the name of a role"));
        let parent = parent.map(|word| word.as_str().to_owned());
        let all: Vec<String> = policies
            .iter()
            .flat_map(|policy| {
                policy.views.iter().map(|view| format!("{}/{}", policy.name, view.name))
            })
            .collect();
        let mut views: Vec<ViewName> = Vec::new();
        for word in self.words(map.get_node("views"), "a view as POLICY/VIEW") {
            let expected = "a view of the policies, as POLICY/VIEW";
            if self.known(Some(word), all.iter().map(String::as_str), expected)
                && let Some((policy, view)) = word.as_str().split_once('/')
            {
                views.push(ViewName { policy: policy.into(), view: view.into() });
            }
        }
        let classes: BTreeSet<&str> = policies
            .iter()
            .filter(|policy| views.iter().any(|view| view.policy == policy.name))
            .flat_map(|policy| policy.fields.iter().map(|field| field.class.as_str()))
            .collect();
        let reveals = self.grants(map, purposes, &classes);
        if !reveals.is_empty() && views.is_empty() && map.get_node("views").is_none() {
            let expected = "`views:`, whose values it may reveal";
            self.at(map.span(), format!("role `{name}` with `reveal` and no view"), expected);
        }
        let yes = [("true", true), ("false", false)];
        let erase = self.choice(map.get_node("erase"), &yes, false);
        let quarantine = self.choice(map.get_node("quarantine"), &yes, false);
        let mut principals = Vec::new();
        for word in self.words(map.get_node("principals"), "a principal of Kafka's, `User:NAME`") {
            let user = word.as_str().strip_prefix("User:").unwrap_or_default();
            match user.is_empty() || user == "*" {
                true => {
                    let expected = "one principal of Kafka's: `User:NAME`";
                    self.at(word.span(), format!("`{}`", word.as_str()), expected);
                }
                false => principals.push(word.as_str().to_owned()),
            }
        }
        if map.get_node("views").is_none() && !erase && !quarantine {
            let expected =
                "a role that grants something: `views`, `reveal`, `erase` or `quarantine`";
            self.at(map.span(), format!("role `{name}`, which grants nothing"), expected);
        }
        Some(Role { name, parent, views, reveals, erase, quarantine, principals })
    }

    fn grants(
        &mut self,
        role: &MarkedMappingNode,
        purposes: &[String],
        classes: &BTreeSet<&str>,
    ) -> BTreeMap<(String, String), Approval> {
        let mut reveals = BTreeMap::new();
        let expected = "grants: `- { classes: [email], purposes: [support] }`";
        let list = match role.get_node("reveal") {
            None => return reveals,
            Some(Node::Sequence(list)) if !list.is_empty() => list,
            Some(node) => {
                self.at(node.span(), crate::operator::shape(node), expected);
                return reveals;
            }
        };
        for node in list.iter() {
            let Some(map) = self.mapping(node, expected) else { continue };
            self.only(map, GRANT_KEYS, "a grant");
            let approval = [("true", Approval::Needed), ("false", Approval::No)];
            let approval = self.choice(map.get_node("approval"), &approval, Approval::No);
            let of = self.words(map.get_node("classes"), "the name of a class");
            let of: Vec<_> = of
                .into_iter()
                .filter(|word| {
                    let expected = "a class of the policies whose views the role reads";
                    self.known(Some(word), classes.iter().copied(), expected)
                })
                .collect();
            let uses = self.words(map.get_node("purposes"), "the name of a purpose");
            let uses: Vec<_> = uses
                .into_iter()
                .filter(|word| {
                    let expected = "a purpose that stands in `purposes:` of this file";
                    self.known(Some(word), purposes.iter().map(String::as_str), expected)
                })
                .collect();
            for key in ["classes", "purposes"] {
                if map
                    .get_node(key)
                    .is_none_or(|node| node.as_sequence().is_some_and(|l| l.is_empty()))
                {
                    self.at(map.span(), format!("a grant without `{key}`"), "one or more of both");
                }
            }
            for (class, purpose) in
                of.iter().flat_map(|class| uses.iter().map(move |use_| (class, use_)))
            {
                let grant = (class.as_str().to_owned(), purpose.as_str().to_owned());
                if reveals.insert(grant, approval).is_some() {
                    let found = format!("`{}` for `{}` again", class.as_str(), purpose.as_str());
                    self.at(class.span(), found, "each class and purpose once in a role");
                }
            }
        }
        reveals
    }

    /// A role may do no more than the one that it is a part of.
    fn within_parent(&mut self, span: &Span, role: &Role, roles: &[(Span, Role)]) {
        let find = |name: &str| roles.iter().map(|(_, role)| role).find(|role| role.name == name);
        let Some(parent) = role.parent.as_deref().and_then(find) else { return };
        let (mut above, mut seen) = (Some(parent), HashSet::new());
        while let Some(one) = above {
            if one.name == role.name || !seen.insert(&one.name) {
                let found = format!("role `{}`, which is a part of itself", role.name);
                self.at(span, found, "a parent that is not below it");
                return;
            }
            above = one.parent.as_deref().and_then(find);
        }
        let views = role.views.iter().filter(|view| !parent.reads(view)).map(ToString::to_string);
        let wider = role.reveals.iter().filter(|(grant, approval)| {
            parent.reveals.get(*grant).is_none_or(|of_parent| approval < &of_parent)
        });
        let wider = wider.map(|((class, purpose), approval)| match approval {
            Approval::No => format!("to reveal `{class}` for `{purpose}`"),
            Approval::Needed => format!("to reveal `{class}` for `{purpose}` with approval"),
        });
        let erase = (role.erase && !parent.erase).then(|| "to erase".to_owned());
        let quarantine =
            (role.quarantine && !parent.quarantine).then(|| "to open quarantine".to_owned());
        let more: Vec<String> = views.chain(wider).chain(erase).chain(quarantine).collect();
        if !more.is_empty() {
            let found = format!(
                "role `{}`, which may more than `{}`: {}",
                role.name,
                parent.name,
                more.join(", ")
            );
            self.at(span, found, "no grant that its parent does not have");
        }
    }

    /// Where a view says who its readers are, it is they.
    fn readers(&mut self, span: &Span, roles: &[(Span, Role)], policies: &[&Policy]) {
        for policy in policies {
            for view in policy.views.iter().filter(|view| !view.readers.is_empty()) {
                let name = ViewName { policy: policy.name.clone(), view: view.name.clone() };
                for reader in &view.readers {
                    match roles.iter().find(|(_, role)| role.name == *reader) {
                        None => {
                            let found = format!("no role `{reader}`, a reader of `{name}`");
                            let problem = Problem::at(
                                span,
                                found,
                                "a role for each of the `readers` of a view",
                            );
                            let names = roles.iter().map(|(_, role)| role.name.as_str());
                            self.error(problem.or_nearest(reader, names));
                        }
                        Some((span, role)) if !role.reads(&name) => {
                            let found = format!(
                                "role `{reader}` without `{name}`, whose `readers` name it"
                            );
                            self.at(span, found, "the same in the role and in the policy");
                        }
                        Some(_) => {}
                    }
                }
                for (span, role) in roles {
                    if role.reads(&name) && !view.readers.contains(&role.name) {
                        let found = format!(
                            "role `{}` with `{name}`, whose `readers` do not name it",
                            role.name
                        );
                        self.at(span, found, "the same in the role and in the policy");
                    }
                }
            }
        }
    }

    fn users(
        &mut self,
        node: Option<&Node>,
        roles: &[(Span, Role)],
    ) -> BTreeMap<String, Vec<String>> {
        let mut users = BTreeMap::new();
        let Some(node) = node else { return users };
        let Some(map) = self.mapping(node, "users and their roles: `ann: [support]`") else {
            return users;
        };
        for (user, node) in map.iter() {
            let words = self.words(Some(node), "the name of a role");
            if words.is_empty() {
                self.at(
                    user.span(),
                    format!("`{}` without a role", user.as_str()),
                    "a role or more",
                );
            }
            let mut held: Vec<&Role> = Vec::new();
            for word in words {
                let names = roles.iter().map(|(_, role)| role.name.as_str());
                self.known(Some(word), names, "the name of a role");
                held.extend(
                    roles.iter().map(|(_, role)| role).find(|role| role.name == word.as_str()),
                );
            }
            let mut grants: BTreeMap<_, (&str, Approval)> = BTreeMap::new();
            for (role, (grant, approval)) in
                held.iter().flat_map(|role| role.reveals.iter().map(move |one| (role, one)))
            {
                let (first, before) = *grants.entry(grant).or_insert((&role.name, *approval));
                if before != *approval {
                    let found = format!(
                        "`{}` with the roles `{first}` and `{}`: one needs approval to reveal `{}` for `{}`, the other does not",
                        user.as_str(),
                        role.name,
                        grant.0,
                        grant.1
                    );
                    self.at(user.span(), found, "roles that agree");
                }
            }
            users.insert(
                user.as_str().to_owned(),
                held.iter().map(|role| role.name.clone()).collect(),
            );
        }
        users
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
policy: crm
version: 1
source: { topic: raw, format: json }
subject: id
fields: { id: identifier, email: email, card: card }
views:
  fraud: { topic: f, readers: [fraud, lead], default: encrypt, key: drop }
  support: { topic: s, default: encrypt, key: drop }
";
    const ROLES: &str = "
purposes: [case, ticket]
roles:
  lead:
    views: [crm/fraud, crm/support]
    reveal:
      - { classes: [email], purposes: [case, ticket] }
      - { classes: [card], purposes: [case], approval: true }
    erase: true
  fraud:
    parent: lead
    views: [crm/fraud]
    reveal: [{ classes: [email], purposes: [case], approval: true }]
    principals: 'User:fraud'
users: { ann: fraud, bob: [lead] }
";

    fn load(text: &str) -> Result<Roles, String> {
        let policy = Policy::load_with(FilePath::new("p.yaml"), &|_| Ok(POLICY.into())).unwrap();
        let read = |_: &FilePath| Ok(text.to_owned());
        Roles::load_with(FilePath::new("r.yaml"), &[&policy], &read).map_err(|all| all.to_string())
    }

    #[test]
    fn a_grant_is_for_a_role_a_view_a_class_and_a_purpose() {
        let roles = load(ROLES).unwrap();
        let view = |view: &str| ViewName { policy: "crm".into(), view: view.into() };
        let may = |names: &[&str], of: &str, class, purpose| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            roles.reveals(&names, &view(of), class, purpose)
        };
        assert_eq!(may(&["lead"], "support", "email", "ticket"), Some(Approval::No));
        assert_eq!(may(&["lead"], "fraud", "card", "case"), Some(Approval::Needed));
        assert_eq!(may(&["fraud"], "fraud", "email", "case"), Some(Approval::Needed));
        assert_eq!(may(&["lead", "fraud"], "fraud", "email", "case"), Some(Approval::Needed));
        for (names, of, class, purpose) in [
            (&["fraud"][..], "support", "email", "case"),
            (&["fraud"], "fraud", "card", "case"),
            (&["fraud"], "fraud", "email", "ticket"),
            (&["lead"], "other", "email", "case"),
            (&["nobody"], "fraud", "email", "case"),
            (&[], "fraud", "email", "case"),
        ] {
            assert_eq!(may(names, of, class, purpose), None, "{names:?} {of} {class} {purpose}");
        }
        assert_eq!(roles.users["ann"], ["fraud"]);
        assert!(roles.erases(&["lead".into()]) && !roles.erases(&["fraud".into()]));
    }

    #[test]
    fn what_is_unknown_wider_or_contradicts_is_refused_with_its_place() {
        for (from, to, expected) in [
            (
                "[crm/fraud]\n",
                "[crm/frau]\n",
                "`crm/frau`; expected a view of the policies, as POLICY/VIEW (did you mean `crm/fraud`?)",
            ),
            (
                "parent: lead",
                "parent: lad",
                "`lad`; expected the name of a role (did you mean `lead`?)",
            ),
            (
                "classes: [card]",
                "classes: [crad]",
                "`crad`; expected a class of the policies whose views the role reads (did you mean `card`?)",
            ),
            (
                "[case, ticket] }",
                "[case, tickets] }",
                "`tickets`; expected a purpose that stands in `purposes:` of this file (did you mean `ticket`?)",
            ),
            ("[case], approval: true }]", "[case] }]", ""),
            (
                "[{ classes: [email], purposes: [case], approval: true }]",
                "[{ classes: [card], purposes: [case] }]",
                "role `fraud`, which may more than `lead`: to reveal `card` for `case`; expected",
            ),
            ("    parent: lead\n", "    parent: lead\n    erase: true\n", ""),
            ("    erase: true\n  fraud:", "    parent: fraud\n  fraud:", "a part of itself"),
            (
                "    erase: true\n  fraud:\n    parent: lead\n",
                "  fraud:\n    parent: lead\n    erase: true\n",
                "may more than `lead`: to erase",
            ),
            (
                "classes: [card], purposes: [case]",
                "classes: [email], purposes: [case]",
                "`email` for `case` again",
            ),
            ("ann: fraud", "ann: frod", "`frod`; expected the name of a role"),
            (
                "ann: fraud",
                "ann: [fraud, lead]",
                "`ann` with the roles `fraud` and `lead`: one needs approval to reveal `email` for `case`, the other does not",
            ),
            ("ann: fraud", "ann: []", "`ann` without a role"),
            ("User:fraud", "User:*", "`User:*`; expected one principal"),
            (
                "views: [crm/fraud]\n",
                "views: [crm/support]\n",
                "role `fraud` without `crm/fraud`, whose `readers` name it",
            ),
            (
                "  fraud:\n",
                "  other: { views: crm/fraud }\n  fraud:\n",
                "role `other` with `crm/fraud`, whose `readers` do not name it",
            ),
            ("  fraud:\n", "  none: {}\n  fraud:\n", "role `none`, which grants nothing"),
            ("  fraud:\n", "  clerk: { quarantine: true }\n  fraud:\n", ""),
            (
                "    parent: lead\n",
                "    parent: lead\n    quarantine: true\n",
                "may more than `lead`: to open quarantine",
            ),
            (
                "purposes: [case], approval: true }]",
                "approval: true }]",
                "a grant without `purposes`",
            ),
            ("approval: true }]", "approval: maybe }]", "`maybe`; expected one of true, false"),
            ("erase: true", "earse: true", "did you mean `erase`?"),
            (
                "  fraud:\n",
                "  froud:\n",
                "no role `fraud`, a reader of `crm/fraud`; expected a role for each of the `readers` of a view (did you mean `froud`?)",
            ),
        ] {
            assert!(ROLES.contains(from), "{from}");
            let loaded = load(&ROLES.replacen(from, to, 1));
            match expected {
                "" => assert!(loaded.is_ok(), "{loaded:?}"),
                _ => {
                    let said = loaded.unwrap_err();
                    assert!(said.contains(expected), "{to}: {said}");
                    assert!(said.starts_with("r.yaml:"), "{said}");
                }
            }
        }
    }
}
