//! Field tables: what the transcoder knows about messages, enums and methods.

use std::{collections::HashMap, sync::OnceLock};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use super::wire;
use crate::api::proto;

/// Fields of one message, at most; sizes the per-object tables on the decoder's stack.
pub(super) const FIELDS_MAX: usize = 16;

/// Highest field number the tables take; they are indexed by number.
const FIELD_NUMBER_MAX: usize = 1023;

/// Why a set of descriptors cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The bytes are no `FileDescriptorSet`.
    #[error("cannot decode the descriptors")]
    Descriptors(#[from] prost::DecodeError),
    /// A field or message uses something the transcoder has no rule for.
    #[error("{name}: {problem}")]
    Unsupported {
        /// Full name of the message or field.
        name: String,
        /// What is not supported.
        problem: &'static str,
    },
}

/// A message type of one [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(pub(super) usize);

/// One RPC.
#[derive(Clone, Debug)]
pub struct Method {
    /// Type of the requests.
    pub input: MessageId,
    /// Type of the responses.
    pub output: MessageId,
    /// The client sends any number of requests.
    pub client_streaming: bool,
    /// The server sends any number of responses.
    pub server_streaming: bool,
}

/// The tables of all messages, enums and methods. Built once, then only read.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<MessageTable>,
    enums: Vec<EnumTable>,
    message_names: HashMap<String, MessageId>,
    methods: HashMap<String, Method>,
}

#[derive(Debug)]
pub(super) struct MessageTable {
    /// In declaration order, which is the order of the output.
    pub(super) fields: Vec<Field>,
    /// Field number to position in `fields`.
    by_number: Vec<Option<u8>>,
}

#[derive(Debug)]
pub(super) struct Field {
    /// Name in the .proto file, `range_end`.
    pub(super) name: Box<[u8]>,
    /// lowerCamelCase name, `rangeEnd`.
    pub(super) camel: Box<[u8]>,
    /// `"range_end":`, ready to print.
    pub(super) label: Box<[u8]>,
    /// Field number and wire type as they stand before a value (packed where packed).
    pub(super) tag: Box<[u8]>,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
    /// Which oneof of the message it belongs to.
    pub(super) oneof: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int64,
    Uint64,
    Int32,
    Uint32,
    Bool,
    Enum(usize),
    Bytes,
    String,
    Message(MessageId),
}

#[derive(Debug)]
pub(super) struct EnumTable {
    pub(super) values: Vec<(Box<str>, i32)>,
}

impl Field {
    /// Elements share one length-delimited record.
    pub(super) fn packed(&self) -> bool {
        self.repeated && self.kind.is_varint()
    }
}

impl Kind {
    pub(super) fn is_varint(self) -> bool {
        !matches!(self, Self::Bytes | Self::String | Self::Message(_))
    }
}

impl MessageTable {
    pub(super) fn by_number(&self, number: u64) -> Option<usize> {
        let slot = self.by_number.get(usize::try_from(number).ok()?)?;
        slot.map(usize::from)
    }
}

impl Schema {
    /// The tables of this server's own wire definitions.
    ///
    /// # Panics
    /// Never in a tested build: the descriptors are compiled in and a test builds from them.
    pub fn etcd() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            Self::from_descriptors(proto::DESCRIPTORS).expect("the built-in descriptors are valid")
        })
    }

    /// Builds the tables from an encoded `FileDescriptorSet`.
    ///
    /// # Errors
    /// [`SchemaError::Unsupported`] for maps, groups, extensions and number types that etcd does
    /// not use; [`SchemaError::Descriptors`] for other bytes.
    pub fn from_descriptors(descriptors: &[u8]) -> Result<Self, SchemaError> {
        let set = FileDescriptorSet::decode(descriptors)?;
        let mut found = Found::default();
        for file in &set.file {
            let package = format!(".{}", file.package());
            found.enums(&package, &file.enum_type);
            found.messages(&package, &file.message_type);
        }
        let messages = found
            .messages
            .iter()
            .map(|(name, message)| message_table(name, message, &found))
            .collect::<Result<_, _>>()?;
        let methods = methods(&set, &found)?;
        let enums = found.enums.into_iter().map(enum_table).collect();
        Ok(Self { messages, enums, message_names: found.message_names, methods })
    }

    /// The message type called `name`, for example `etcdserverpb.PutRequest`.
    pub fn message(&self, name: &str) -> Option<MessageId> {
        self.message_names.get(&format!(".{name}")).copied()
    }

    /// Every message type.
    pub fn messages(&self) -> impl Iterator<Item = MessageId> + use<> {
        (0..self.messages.len()).map(MessageId)
    }

    /// The method at a gRPC path, for example `/etcdserverpb.KV/Put`.
    pub fn method(&self, path: &str) -> Option<&Method> {
        self.methods.get(path)
    }

    pub(super) fn table(&self, id: MessageId) -> &MessageTable {
        &self.messages[id.0]
    }

    pub(super) fn enumeration(&self, index: usize) -> &EnumTable {
        &self.enums[index]
    }
}

/// All types of the set by full name (with a leading dot), before the tables are built.
#[derive(Default)]
struct Found<'a> {
    messages: Vec<(String, &'a DescriptorProto)>,
    enums: Vec<&'a EnumDescriptorProto>,
    message_names: HashMap<String, MessageId>,
    enum_names: HashMap<String, usize>,
}

impl<'a> Found<'a> {
    fn messages(&mut self, scope: &str, messages: &'a [DescriptorProto]) {
        for message in messages {
            let name = format!("{scope}.{}", message.name());
            self.enums(&name, &message.enum_type);
            self.messages(&name, &message.nested_type);
            self.message_names.insert(name.clone(), MessageId(self.messages.len()));
            self.messages.push((name, message));
        }
    }

    fn enums(&mut self, scope: &str, enums: &'a [EnumDescriptorProto]) {
        for enumeration in enums {
            let name = format!("{scope}.{}", enumeration.name());
            self.enum_names.insert(name, self.enums.len());
            self.enums.push(enumeration);
        }
    }
}

fn unsupported(name: &str, problem: &'static str) -> SchemaError {
    SchemaError::Unsupported { name: name.trim_start_matches('.').to_owned(), problem }
}

fn message_table(
    name: &str,
    message: &DescriptorProto,
    found: &Found<'_>,
) -> Result<MessageTable, SchemaError> {
    if message.field.len() > FIELDS_MAX {
        return Err(unsupported(name, "too many fields"));
    }
    let mut table = MessageTable { fields: Vec::new(), by_number: Vec::new() };
    for (position, descriptor) in (0_u8..).zip(&message.field) {
        let name = format!("{name}.{}", descriptor.name());
        let number = usize::try_from(descriptor.number())
            .ok()
            .filter(|number| (1..=FIELD_NUMBER_MAX).contains(number))
            .ok_or_else(|| unsupported(&name, "field number out of range"))?;
        if table.by_number.len() <= number {
            table.by_number.resize(number + 1, None);
        }
        table.by_number[number] = Some(position);
        table.fields.push(field(&name, number, descriptor, found)?);
    }
    Ok(table)
}

fn field(
    name: &str,
    number: usize,
    descriptor: &FieldDescriptorProto,
    found: &Found<'_>,
) -> Result<Field, SchemaError> {
    let type_name = descriptor.type_name();
    let kind = match descriptor.r#type() {
        Type::Int64 => Kind::Int64,
        Type::Uint64 => Kind::Uint64,
        Type::Int32 => Kind::Int32,
        Type::Uint32 => Kind::Uint32,
        Type::Bool => Kind::Bool,
        Type::Bytes => Kind::Bytes,
        Type::String => Kind::String,
        Type::Enum => Kind::Enum(
            *found.enum_names.get(type_name).ok_or_else(|| unsupported(name, "unknown enum"))?,
        ),
        Type::Message => Kind::Message(
            *found
                .message_names
                .get(type_name)
                .ok_or_else(|| unsupported(name, "unknown message"))?,
        ),
        _ => return Err(unsupported(name, "field type without a rule")),
    };
    if descriptor.proto3_optional() {
        return Err(unsupported(name, "optional scalar"));
    }
    let repeated = descriptor.label() == Label::Repeated;
    let wire_type = if kind.is_varint() && !repeated { wire::VARINT } else { wire::DELIMITED };
    let mut tag = Vec::new();
    wire::put_varint(&mut tag, (number as u64) << 3 | wire_type);
    Ok(Field {
        name: descriptor.name().as_bytes().into(),
        camel: camel_case(descriptor.name()).into_bytes().into(),
        label: format!("\"{}\":", descriptor.name()).into_bytes().into(),
        tag: tag.into(),
        kind,
        repeated,
        oneof: descriptor.oneof_index,
    })
}

/// The JSON name protoc derives: underscores go, the letter after one is upper case.
fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        if letter == '_' {
            upper = true;
        } else {
            camel.push(if upper { letter.to_ascii_uppercase() } else { letter });
            upper = false;
        }
    }
    camel
}

fn enum_table(descriptor: &EnumDescriptorProto) -> EnumTable {
    let values = descriptor.value.iter().map(|v| (v.name().into(), v.number())).collect();
    EnumTable { values }
}

fn methods(
    set: &FileDescriptorSet,
    found: &Found<'_>,
) -> Result<HashMap<String, Method>, SchemaError> {
    let mut methods = HashMap::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let known = |name: &str| {
                    let id = found.message_names.get(name).copied();
                    id.ok_or_else(|| unsupported(&path, "unknown message"))
                };
                let entry = Method {
                    input: known(method.input_type())?,
                    output: known(method.output_type())?,
                    client_streaming: method.client_streaming(),
                    server_streaming: method.server_streaming(),
                };
                methods.insert(path, entry);
            }
        }
    }
    Ok(methods)
}
