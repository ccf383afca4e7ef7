#include "rare/schema.h"

#include <algorithm>
#include <regex>
#include <string>

#include <nlohmann/json.hpp>

#include "rare/error.h"

extern const char* const manifest_schema;

namespace rare {
namespace {

using nlohmann::json;

/// A value in a message; what has parts is named alone, because printing it goes as deep as it does.
std::string brief(const json& value) {
  if (value.is_structured()) return value.is_array() ? "a list of " + std::to_string(value.size()) : "an object";
  return value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 200);
}

[[noreturn]] void refuse(const std::string& key, const json& value, const std::string& expected) {
  throw Error(Fault::model, "the bundle's manifest is invalid", {{}, key + " = " + brief(value), expected});
}

bool has_type(const json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "null") return value.is_null();
  throw Error(Fault::bug, "the schema has a type that is not known here", {{}, type, {}});
}

void check_number(const json& value, const json& schema, const std::string& key) {
  const auto number = value.get<double>();
  const auto require = [&](const char* name, auto holds, const char* words) {
    const auto bound = schema.find(name);
    if (bound != schema.end() && !holds(number, bound->get<double>())) refuse(key, value, words + bound->dump());
  };
  require("minimum", [](double one, double other) { return one >= other; }, "at least ");
  require("maximum", [](double one, double other) { return one <= other; }, "at most ");
  require("exclusiveMinimum", [](double one, double other) { return one > other; }, "more than ");
  require("exclusiveMaximum", [](double one, double other) { return one < other; }, "less than ");
}

void check_string(const json& value, const json& schema, const std::string& key) {
  const auto& text = value.get_ref<const std::string&>();
  const auto starts_character = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; };
  const auto length = static_cast<std::size_t>(std::count_if(text.begin(), text.end(), starts_character));
  if (length < schema.value("minLength", std::size_t{0})) refuse(key, value, "a longer text");
  if (length > schema.value("maxLength", length)) refuse(key, value, "a shorter text");
  // a long text is refused unseen: matching one goes as deep as it is long
  if (schema.contains("pattern") &&
      (text.size() > 256 || !std::regex_match(text, std::regex(schema.at("pattern").get_ref<const std::string&>())))) {
    refuse(key, value, schema.at("pattern"));
  }
}

class Check {
 public:
  explicit Check(const json& root) : root_(root) {}

  void check(json& value, const json& schema, const std::string& key) const {
    if (schema.contains("$ref")) return check(value, at(schema.at("$ref")), key);
    if (schema.contains("discriminator")) return check(value, chosen(value, schema.at("discriminator"), key), key);
    if (schema.contains("anyOf")) return check_any(value, schema.at("anyOf"), key);
    if (schema.contains("type") && !has_type(value, schema.at("type"))) refuse(key, value, "of type " + schema.at("type").get<std::string>());
    if (schema.contains("const") && value != schema.at("const")) refuse(key, value, schema.at("const").dump());
    if (schema.contains("enum") && std::find(schema.at("enum").begin(), schema.at("enum").end(), value) == schema.at("enum").end()) {
      refuse(key, value, "one of " + schema.at("enum").dump());
    }
    if (value.is_number()) check_number(value, schema, key);
    if (value.is_string()) check_string(value, schema, key);
    if (value.is_array()) check_items(value, schema, key);
    if (value.is_object()) check_members(value, schema, key);
  }

 private:
  /// "#/$defs/Engine" -> its schema.
  const json& at(const std::string& reference) const { return root_.at(json::json_pointer(reference.substr(1))); }

  const json& chosen(const json& value, const json& discriminator, const std::string& key) const {
    const std::string name = discriminator.at("propertyName");
    if (!value.is_object() || !value.contains(name)) refuse(key, value, "an object with the key " + name);
    const json& tag = value.at(name);
    const json& mapping = discriminator.at("mapping");
    if (!tag.is_string() || !mapping.contains(tag.get<std::string>())) refuse(key + "." + name, tag, "a known " + name);
    return at(mapping.at(tag.get<std::string>()));
  }

  void check_any(json& value, const json& schemas, const std::string& key) const {
    // in this schema null is the one alternative, and null alone is null
    for (const json& schema : schemas) {
      if ((schema.value("type", "") == "null") == value.is_null()) return check(value, schema, key);
    }
    refuse(key, value, "something else");
  }

  void check_items(json& value, const json& schema, const std::string& key) const {
    if (value.size() < schema.value("minItems", std::size_t{0}) || value.size() > schema.value("maxItems", value.size())) {
      refuse(key, value, "another length");
    }
    for (std::size_t index = 0; index < value.size(); ++index) {
      const json& items = schema.contains("prefixItems") ? schema.at("prefixItems").at(index) : schema.at("items");
      check(value[index], items, key + "." + std::to_string(index));
    }
  }

  void check_members(json& value, const json& schema, const std::string& key) const {
    const json none = json::object();
    const json& properties = schema.contains("properties") ? schema.at("properties") : none;
    const std::string prefix = key.empty() ? key : key + ".";
    for (const auto& [name, member] : properties.items()) {
      if (!value.contains(name) && member.contains("default")) value[name] = member.at("default");
    }
    for (const json& name : schema.value("required", json::array())) {
      if (!value.contains(name.get<std::string>())) refuse(prefix + name.get<std::string>(), nullptr, "a value");
    }
    if (value.size() > schema.value("maxProperties", value.size())) refuse(key, value, "fewer keys");
    for (auto& [name, member] : value.items()) {
      if (schema.contains("propertyNames")) check_string(name, schema.at("propertyNames"), prefix + name.substr(0, 200));
      const json& others = schema.value("additionalProperties", json(true));
      if (properties.contains(name)) {
        check(member, properties.at(name), prefix + name);
      } else if (others.is_object()) {
        check(member, others, prefix + name);
      } else if (others == false) {
        refuse(prefix + name.substr(0, 200), member, "no such key");
      }
    }
  }

  const json& root_;
};

}  // namespace

void follow_schema(json& manifest) {
  static const json schema = json::parse(manifest_schema);
  Check(schema).check(manifest, schema, "");
}

}  // namespace rare
