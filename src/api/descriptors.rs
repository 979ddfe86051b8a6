//! The compiled wire definitions as a table: files, what each defines, services, methods.

use std::{
    collections::{BTreeSet, HashMap},
    sync::OnceLock,
};

use bytes::Bytes;
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use super::proto::DESCRIPTORS;

/// How the messages of a method flow, by the names gRPC's metrics use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// One request, one response.
    Unary,
    /// Many requests, one response.
    ClientStream,
    /// One request, many responses.
    ServerStream,
    /// Many of both.
    BidiStream,
}

/// One method of a service.
#[derive(Clone, Debug)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: String,
    /// `package.Service`.
    pub service: String,
    /// `Method`.
    pub name: String,
    /// How its messages flow.
    pub flow: Flow,
}

#[derive(Debug)]
struct File {
    name: String,
    encoded: Bytes,
    imports: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Descriptors {
    files: Vec<File>,
    /// Full name to position in `files`.
    symbols: HashMap<String, usize>,
    services: Vec<String>,
    methods: Vec<Method>,
}

impl Descriptors {
    /// Those compiled into this program.
    pub fn compiled() -> &'static Self {
        static COMPILED: OnceLock<Descriptors> = OnceLock::new();
        COMPILED.get_or_init(|| {
            let set = FileDescriptorSet::decode(DESCRIPTORS);
            Self::new(&set.expect("the build wrote a descriptor set"))
        })
    }

    fn new(set: &FileDescriptorSet) -> Self {
        let (files, symbols) = (Vec::new(), HashMap::new());
        let mut all = Self { files, symbols, services: Vec::new(), methods: Vec::new() };
        for file in &set.file {
            all.add(file);
        }
        all
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let package = file.package();
        for message in &file.message_type {
            self.add_message(package, message);
        }
        for one in &file.enum_type {
            self.add_enum(package, one);
        }
        for service in &file.service {
            let full = self.add_symbol(package, service.name());
            for method in &service.method {
                self.add_symbol(&full, method.name());
                let flow = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => Flow::Unary,
                    (true, false) => Flow::ClientStream,
                    (false, true) => Flow::ServerStream,
                    (true, true) => Flow::BidiStream,
                };
                self.methods.push(Method {
                    path: format!("/{full}/{}", method.name()),
                    service: full.clone(),
                    name: method.name().to_owned(),
                    flow,
                });
            }
            self.services.push(full);
        }
        self.files.push(File {
            name: file.name().to_owned(),
            encoded: file.encode_to_vec().into(),
            imports: file.dependency.clone(),
        });
    }

    /// Adds a name of the file that comes next.
    fn add_symbol(&mut self, scope: &str, name: &str) -> String {
        let full = if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        self.symbols.insert(full.clone(), self.files.len());
        full
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let full = self.add_symbol(scope, message.name());
        for field in &message.field {
            self.add_symbol(&full, field.name());
        }
        for nested in &message.nested_type {
            self.add_message(&full, nested);
        }
        for one in &message.enum_type {
            self.add_enum(&full, one);
        }
    }

    fn add_enum(&mut self, scope: &str, one: &EnumDescriptorProto) {
        self.add_symbol(scope, one.name());
        // Values are named beside their enum, not inside it.
        for value in &one.value {
            self.add_symbol(scope, value.name());
        }
    }

    /// Full names of all services.
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// All methods of all services.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Whether something of this full name is defined.
    pub fn knows(&self, symbol: &str) -> bool {
        self.symbols.contains_key(symbol)
    }

    /// The encoded file of this name, and before others those it imports, each once.
    pub fn file(&self, name: &str) -> Option<Vec<Bytes>> {
        let first = self.files.iter().position(|file| file.name == name)?;
        let mut seen = BTreeSet::from([first]);
        let mut order = vec![first];
        let mut at = 0;
        while let Some(file) = order.get(at).and_then(|&number| self.files.get(number)) {
            for import in &file.imports {
                let number = self.files.iter().position(|file| file.name == *import);
                order.extend(number.filter(|&number| seen.insert(number)));
            }
            at += 1;
        }
        Some(order.iter().map(|&number| self.files[number].encoded.clone()).collect())
    }

    /// As [`Descriptors::file`], for the file that defines `symbol`.
    pub fn file_of(&self, symbol: &str) -> Option<Vec<Bytes>> {
        let number = *self.symbols.get(symbol)?;
        self.file(&self.files[number].name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: Option<Vec<Bytes>>) -> Vec<String> {
        let name =
            |bytes: &Bytes| FileDescriptorProto::decode(bytes.clone()).unwrap().name.unwrap();
        files.unwrap_or_default().iter().map(name).collect()
    }

    #[test]
    fn a_file_comes_first_and_brings_its_imports() {
        let all = Descriptors::compiled();
        let found = names(all.file("rpc.proto"));
        assert_eq!(found.first().map(String::as_str), Some("rpc.proto"));
        assert!(found.contains(&"kv.proto".to_owned()), "{found:?}");
        assert_eq!(names(all.file("nope.proto")), [""; 0]);
    }

    #[test]
    fn services_methods_messages_fields_and_enums_have_a_file() {
        let all = Descriptors::compiled();
        for symbol in [
            "etcdserverpb.KV",
            "etcdserverpb.KV.Put",
            "etcdserverpb.PutRequest",
            "etcdserverpb.PutRequest.lease",
            "etcdserverpb.RangeRequest.SortOrder",
            "etcdserverpb.RangeRequest.DESCEND",
        ] {
            let found = names(all.file_of(symbol));
            assert_eq!(found.first().map(String::as_str), Some("rpc.proto"), "{symbol}");
        }
        assert_eq!(names(all.file_of("mvccpb.KeyValue")), ["kv.proto"]);
        assert!(all.file_of("etcdserverpb.Nope").is_none());
    }

    #[test]
    fn flows_are_those_of_the_definitions() {
        let all = Descriptors::compiled();
        let flow = |path: &str| all.methods().iter().find(|m| m.path == path).unwrap().flow;
        assert_eq!(flow("/etcdserverpb.KV/Put"), Flow::Unary);
        assert_eq!(flow("/etcdserverpb.Watch/Watch"), Flow::BidiStream);
        assert_eq!(flow("/etcdserverpb.Maintenance/Snapshot"), Flow::ServerStream);
    }
}
