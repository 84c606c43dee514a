//! Kafka's ACLs: listed, made and removed. rdkafka has no calls for them, librdkafka has: what is unsafe in this crate
//! is here, and keeps to this file.
#![allow(unsafe_code, reason = "librdkafka's calls for ACLs have no safe wrapper")]

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;

use rdkafka::bindings::*;
use serde::Serialize;

use super::admin::Admin;
use super::client::KafkaProblem;

/// How long librdkafka has for an answer, in milliseconds.
const CALL_MS: i32 = 10_000;
/// After this long librdkafka has said at least that there is none.
const SAID_MS: i32 = CALL_MS + 5_000;

/// What is allowed or denied something of. Kafka has kinds that librdkafka does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resource {
    Cluster,
    Topic,
    Group,
    TransactionalId,
    Unknown,
}

/// How a name is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Pattern {
    /// This name; `*` is every name.
    Literal,
    /// Every name that begins so.
    Prefixed,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Permission {
    Deny,
    Allow,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "&'static str")]
pub enum Operation {
    All,
    Read,
    Write,
    Create,
    Delete,
    Alter,
    Describe,
    ClusterAction,
    DescribeConfigs,
    AlterConfigs,
    IdempotentWrite,
    Unknown,
}

/// One ACL. The order is the one in which they are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Binding {
    /// Such as `User:analytics`; `User:*` is everybody.
    pub principal: String,
    pub host: String,
    pub permission: Permission,
    pub resource: Resource,
    pub pattern: Pattern,
    pub name: String,
    pub operation: Operation,
}

impl Binding {
    /// Lets a principal do something from every host.
    pub fn allow(
        principal: &str,
        resource: Resource,
        pattern: Pattern,
        name: &str,
        operation: Operation,
    ) -> Binding {
        Binding {
            principal: principal.to_owned(),
            host: "*".to_owned(),
            permission: Permission::Allow,
            resource,
            pattern,
            name: name.to_owned(),
            operation,
        }
    }

    /// Whether it speaks of this topic.
    pub fn covers(&self, topic: &str) -> bool {
        self.resource == Resource::Topic
            && match self.pattern {
                Pattern::Literal => self.name == "*" || self.name == topic,
                Pattern::Prefixed => topic.starts_with(&self.name),
                // Whatever it is, it is no reason to keep quiet.
                Pattern::Unknown => true,
            }
    }

    /// Whether it can be told to a broker: librdkafka knows every part of it.
    pub fn is_known(&self) -> bool {
        self.native().is_some()
    }

    fn native(&self) -> Option<Native> {
        Some(Native {
            resource: RESOURCES.iter().find(|(known, _)| *known == self.resource)?.1,
            pattern: PATTERNS.iter().find(|(known, _)| *known == self.pattern)?.1,
            operation: OPERATIONS.iter().find(|(known, ..)| *known == self.operation)?.1,
            permission: PERMISSIONS.iter().find(|(known, _)| *known == self.permission)?.1,
        })
    }
}

/// The same parts, by librdkafka's names.
struct Native {
    resource: rd_kafka_ResourceType_t,
    pattern: rd_kafka_ResourcePatternType_t,
    operation: rd_kafka_AclOperation_t,
    permission: rd_kafka_AclPermissionType_t,
}

const RESOURCES: [(Resource, rd_kafka_ResourceType_t); 4] = {
    use rd_kafka_ResourceType_t::*;
    [
        // The number 4 is a broker among settings, and the cluster among ACLs.
        (Resource::Cluster, RD_KAFKA_RESOURCE_BROKER),
        (Resource::Topic, RD_KAFKA_RESOURCE_TOPIC),
        (Resource::Group, RD_KAFKA_RESOURCE_GROUP),
        (Resource::TransactionalId, RD_KAFKA_RESOURCE_TRANSACTIONAL_ID),
    ]
};

const PATTERNS: [(Pattern, rd_kafka_ResourcePatternType_t); 2] = {
    use rd_kafka_ResourcePatternType_t::*;
    [
        (Pattern::Literal, RD_KAFKA_RESOURCE_PATTERN_LITERAL),
        (Pattern::Prefixed, RD_KAFKA_RESOURCE_PATTERN_PREFIXED),
    ]
};

const PERMISSIONS: [(Permission, rd_kafka_AclPermissionType_t); 2] = {
    use rd_kafka_AclPermissionType_t::*;
    [
        (Permission::Deny, RD_KAFKA_ACL_PERMISSION_TYPE_DENY),
        (Permission::Allow, RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW),
    ]
};

const OPERATIONS: [(Operation, rd_kafka_AclOperation_t, &str); 11] = {
    use rd_kafka_AclOperation_t::*;
    [
        (Operation::All, RD_KAFKA_ACL_OPERATION_ALL, "ALL"),
        (Operation::Read, RD_KAFKA_ACL_OPERATION_READ, "READ"),
        (Operation::Write, RD_KAFKA_ACL_OPERATION_WRITE, "WRITE"),
        (Operation::Create, RD_KAFKA_ACL_OPERATION_CREATE, "CREATE"),
        (Operation::Delete, RD_KAFKA_ACL_OPERATION_DELETE, "DELETE"),
        (Operation::Alter, RD_KAFKA_ACL_OPERATION_ALTER, "ALTER"),
        (Operation::Describe, RD_KAFKA_ACL_OPERATION_DESCRIBE, "DESCRIBE"),
        (Operation::ClusterAction, RD_KAFKA_ACL_OPERATION_CLUSTER_ACTION, "CLUSTER_ACTION"),
        (Operation::DescribeConfigs, RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS, "DESCRIBE_CONFIGS"),
        (Operation::AlterConfigs, RD_KAFKA_ACL_OPERATION_ALTER_CONFIGS, "ALTER_CONFIGS"),
        (Operation::IdempotentWrite, RD_KAFKA_ACL_OPERATION_IDEMPOTENT_WRITE, "IDEMPOTENT_WRITE"),
    ]
};

impl From<Operation> for &'static str {
    fn from(operation: Operation) -> &'static str {
        let known = OPERATIONS.iter().find(|(known, ..)| *known == operation);
        known.map_or("an unknown operation", |(_, _, name)| name)
    }
}

impl Admin {
    /// All ACLs of the cluster.
    pub fn acls(&self) -> Result<Vec<Binding>, KafkaProblem> {
        let found = self.describe_acls()?;
        if found.is_empty() {
            // librdkafka 2.12 loses the error of this answer (rd_kafka_DescribeAclsResponse_parse): no ACL is what it
            // tells of a cluster without an authorizer too, and to whom may not list them. To remove what is not there
            // changes nothing, and its error comes through.
            let (of, name) = ("User:veilstream-nobody", format!("{:032x}", rand::random::<u128>()));
            let none =
                Binding::allow(of, Resource::Topic, Pattern::Literal, &name, Operation::Read);
            self.disallow(&[none])?;
        }
        Ok(found)
    }

    fn describe_acls(&self) -> Result<Vec<Binding>, KafkaProblem> {
        let everything = Filter::new(
            None,
            Native {
                resource: rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_ANY,
                pattern: rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_ANY,
                operation: rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_ANY,
                permission: rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ANY,
            },
        )?;
        let call = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBEACLS;
        let answer = self.ask(call, |client, options, queue| {
            // SAFETY: all four live over the call, which copies the filter.
            unsafe { rd_kafka_DescribeAcls(client, everything.0.pointer(), options, queue) }
        })?;
        let mut count = 0;
        // SAFETY: the answer is an event and lives to the end of this function; of another kind its result is null,
        // which is looked at before it is used. What the result holds lives as long as the answer.
        unsafe {
            let result = rd_kafka_event_DescribeAcls_result(answer.pointer());
            if result.is_null() {
                return Err(unexpected());
            }
            let acls = rd_kafka_DescribeAcls_result_acls(result, &mut count);
            Ok(slice(acls, count).iter().map(|acl| binding(*acl)).collect())
        }
    }

    /// Makes ACLs. One that is there already stays.
    pub fn allow(&self, bindings: &[Binding]) -> Result<(), KafkaProblem> {
        if bindings.is_empty() {
            return Ok(());
        }
        let made = bindings.iter().map(Filter::exactly).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = made.iter().map(|one| one.0.pointer()).collect();
        let call = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEACLS;
        let answer = self.ask(call, |client, options, queue| {
            let (all, count) = (pointers.as_mut_ptr(), pointers.len());
            // SAFETY: all live over the call, which copies the bindings; there are `count` of them. Each has every part
            // that rd_kafka_AclBinding_new asks for: it is what `exactly` makes.
            unsafe { rd_kafka_CreateAcls(client, all, count, options, queue) }
        })?;
        let mut count = 0;
        // SAFETY: as in `describe_acls`. The error of a result is null where there is none.
        unsafe {
            let result = rd_kafka_event_CreateAcls_result(answer.pointer());
            if result.is_null() {
                return Err(unexpected());
            }
            let results = rd_kafka_CreateAcls_result_acls(result, &mut count);
            let results = slice(results, count).iter();
            first_error(results.map(|one| rd_kafka_acl_result_error(*one)))
        }
    }

    /// Removes exactly these ACLs. One that is not there is no error.
    pub fn disallow(&self, bindings: &[Binding]) -> Result<(), KafkaProblem> {
        if bindings.is_empty() {
            return Ok(());
        }
        let gone = bindings.iter().map(Filter::exactly).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = gone.iter().map(|one| one.0.pointer()).collect();
        let call = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETEACLS;
        let answer = self.ask(call, |client, options, queue| {
            let (all, count) = (pointers.as_mut_ptr(), pointers.len());
            // SAFETY: all live over the call, which copies the filters; there are `count` of them.
            unsafe { rd_kafka_DeleteAcls(client, all, count, options, queue) }
        })?;
        let mut count = 0;
        // SAFETY: as in `allow`.
        unsafe {
            let result = rd_kafka_event_DeleteAcls_result(answer.pointer());
            if result.is_null() {
                return Err(unexpected());
            }
            let all = slice(rd_kafka_DeleteAcls_result_responses(result, &mut count), count);
            first_error(all.iter().map(|one| rd_kafka_DeleteAcls_result_response_error(*one)))?;
            all.iter().try_for_each(|response| {
                let mut count = 0;
                let of = rd_kafka_DeleteAcls_result_response_matching_acls(*response, &mut count);
                first_error(slice(of, count).iter().map(|acl| rd_kafka_AclBinding_error(*acl)))
            })
        }
    }

    /// Sends what `send` sends, and waits for the answer.
    fn ask(
        &self,
        call: rd_kafka_admin_op_t,
        send: impl FnOnce(*mut rd_kafka_t, *const rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t),
    ) -> Result<Owned<rd_kafka_event_t>, KafkaProblem> {
        let client = self.0.inner().native_ptr();
        let mut text = [0; 256];
        // SAFETY: the client lives as long as `self`; each object is destroyed once, by its guard, with the call that
        // belongs to it, and what is still under way to a destroyed queue is thrown away by librdkafka. The text has
        // the length that is told, and librdkafka ends what it writes there with a zero.
        unsafe {
            let queue = Owned::new(rd_kafka_queue_new(client), rd_kafka_queue_destroy)
                .ok_or_else(|| KafkaProblem("no queue".into()))?;
            let options = rd_kafka_AdminOptions_new(client, call);
            let options = Owned::new(options, rd_kafka_AdminOptions_destroy)
                .ok_or_else(|| KafkaProblem("no options".into()))?;
            let (to, length) = (text.as_mut_ptr(), text.len());
            let set =
                rd_kafka_AdminOptions_set_request_timeout(options.pointer(), CALL_MS, to, length);
            if set != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(KafkaProblem(string(to)));
            }
            send(client, options.pointer(), queue.pointer());
            let answer = rd_kafka_queue_poll(queue.pointer(), SAID_MS);
            let answer = Owned::new(answer, rd_kafka_event_destroy)
                .ok_or_else(|| KafkaProblem(format!("no answer within {SAID_MS} ms")))?;
            match rd_kafka_event_error(answer.pointer()) {
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(answer),
                code => {
                    let said = string(rd_kafka_event_error_string(answer.pointer()));
                    Err(problem(&string(rd_kafka_err2name(code)), said))
                }
            }
        }
    }
}

/// An object of librdkafka's, destroyed when it goes.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// None for null.
    ///
    /// # Safety
    /// `pointer` is null, or the caller's to destroy by `destroy`.
    unsafe fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Owned<T>> {
        NonNull::new(pointer).map(|pointer| Owned { pointer, destroy })
    }

    fn pointer(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: whoever made it has promised that it is ours to destroy, by this call, and that happens here alone.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

/// A binding, or a filter of bindings: to librdkafka they are of one type.
struct Filter(Owned<rd_kafka_AclBinding_t>);

impl Filter {
    /// What matches this ACL alone, and is this ACL where one is made.
    fn exactly(binding: &Binding) -> Result<Filter, KafkaProblem> {
        let unknown = || KafkaProblem("librdkafka does not know every part of this ACL".into());
        Filter::new(Some(binding), binding.native().ok_or_else(unknown)?)
    }

    /// Without a binding: whatever its names are.
    fn new(binding: Option<&Binding>, parts: Native) -> Result<Filter, KafkaProblem> {
        let text = |of: fn(&Binding) -> &String| {
            let text = binding.map(|binding| CString::new(of(binding).as_str())).transpose();
            text.map_err(|_| KafkaProblem("a zero byte in the name of an ACL".into()))
        };
        let name = text(|binding| &binding.name)?;
        let principal = text(|binding| &binding.principal)?;
        let host = text(|binding| &binding.host)?;
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        let mut said: [c_char; 256] = [0; 256];
        // SAFETY: the texts are null or end with a zero, and live over the call, which copies them; `said` has the
        // length that is told. What comes back is null or ours.
        unsafe {
            let filter = rd_kafka_AclBindingFilter_new(
                parts.resource,
                pointer(&name),
                parts.pattern,
                pointer(&principal),
                pointer(&host),
                parts.operation,
                parts.permission,
                said.as_mut_ptr(),
                said.len(),
            );
            match Owned::new(filter, rd_kafka_AclBinding_destroy) {
                Some(filter) => Ok(Filter(filter)),
                None => Err(KafkaProblem(string(said.as_ptr()))),
            }
        }
    }
}

/// # Safety
/// `acl` is an ACL of an answer that lives. librdkafka has made each part one that its types have
/// (rd_kafka_DescribeAclsResponse_parse).
unsafe fn binding(acl: *const rd_kafka_AclBinding_t) -> Binding {
    // SAFETY: as promised; the texts live as long as the ACL and are copied.
    let (principal, host, name, native) = unsafe {
        let native = Native {
            resource: rd_kafka_AclBinding_restype(acl),
            pattern: rd_kafka_AclBinding_resource_pattern_type(acl),
            operation: rd_kafka_AclBinding_operation(acl),
            permission: rd_kafka_AclBinding_permission_type(acl),
        };
        let principal = string(rd_kafka_AclBinding_principal(acl));
        let host = string(rd_kafka_AclBinding_host(acl));
        (principal, host, string(rd_kafka_AclBinding_name(acl)), native)
    };
    let permission = PERMISSIONS.iter().find(|(_, of)| *of == native.permission);
    let resource = RESOURCES.iter().find(|(_, of)| *of == native.resource);
    let pattern = PATTERNS.iter().find(|(_, of)| *of == native.pattern);
    let operation = OPERATIONS.iter().find(|(_, of, _)| *of == native.operation);
    Binding {
        principal,
        host,
        permission: permission.map_or(Permission::Unknown, |(known, _)| *known),
        resource: resource.map_or(Resource::Unknown, |(known, _)| *known),
        pattern: pattern.map_or(Pattern::Unknown, |(known, _)| *known),
        name,
        operation: operation.map_or(Operation::Unknown, |(known, ..)| *known),
    }
}

/// # Safety
/// `errors` are null, or errors of an answer that lives.
unsafe fn first_error(
    mut errors: impl Iterator<Item = *const rd_kafka_error_t>,
) -> Result<(), KafkaProblem> {
    match errors.find(|error| !error.is_null()) {
        None => Ok(()),
        // SAFETY: it is not null; its texts live as long as it and are copied.
        Some(error) => unsafe {
            let (name, said) = (rd_kafka_error_name(error), rd_kafka_error_string(error));
            Err(problem(&string(name), string(said)))
        },
    }
}

/// # Safety
/// There are `count` elements behind `first`, and they outlive `'a`; it may be null where there are none.
unsafe fn slice<'a, T>(first: *mut *const T, count: usize) -> &'a [*const T] {
    match first.is_null() || count == 0 {
        true => &[],
        // SAFETY: as promised.
        false => unsafe { std::slice::from_raw_parts(first, count) },
    }
}

/// # Safety
/// `text` is null or ends with a zero.
unsafe fn string(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: as promised.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    }
}

fn unexpected() -> KafkaProblem {
    KafkaProblem("librdkafka answered something else than was asked".into())
}

/// What a broker objects to, and what to do about it.
fn problem(name: &str, said: String) -> KafkaProblem {
    KafkaProblem(match name {
        "SECURITY_DISABLED" => {
            "SECURITY_DISABLED: its brokers have no authorizer, so everybody may do everything; \
             set `authorizer.class.name` on brokers and controllers"
                .into()
        }
        "CLUSTER_AUTHORIZATION_FAILED" => {
            "CLUSTER_AUTHORIZATION_FAILED: this user may not do so; to see ACLs takes \
             DESCRIBE on the cluster, to change them ALTER"
                .into()
        }
        _ => said,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails where it should")]

    use super::*;

    #[test]
    fn a_binding_is_the_same_there_and_back() {
        for (operation, ..) in OPERATIONS {
            for (resource, _) in RESOURCES {
                for (pattern, _) in PATTERNS {
                    for (permission, _) in PERMISSIONS {
                        let allow = Binding::allow("User:a", resource, pattern, "n", operation);
                        let one = Binding { permission, host: "10.0.0.1".into(), ..allow };
                        let filter = Filter::exactly(&one).unwrap();
                        // SAFETY: the filter lives, and its parts are known ones.
                        assert_eq!(unsafe { binding(filter.0.pointer()) }, one);
                    }
                }
            }
        }
    }

    #[test]
    fn what_librdkafka_does_not_know_is_no_filter() {
        let allow =
            |operation| Binding::allow("User:a", Resource::Topic, Pattern::Literal, "n", operation);
        assert!(!allow(Operation::Unknown).is_known());
        assert!(Filter::exactly(&allow(Operation::Unknown)).is_err());
        let zero = Binding { name: "a\0b".into(), ..allow(Operation::Read) };
        assert!(Filter::exactly(&zero).is_err());
    }
}
