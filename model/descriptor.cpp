#include "model/descriptor.h"

#include <fmt/format.h>

#include <algorithm>

namespace relive::model {

Words words(const EpollSet& set) {
  return {.kind = "epoll", .detail = fmt::format("watches {}", set.entries.size()), .phrase = "epoll set"};
}
Words words(const UnhandledFile& file) {
  return {.kind = file.what, .detail = "not handled by this release", .phrase = {}};
}
Words words_of(const FileObject& object) {
  return std::visit([](const auto& one) { return words(one); }, object);
}

std::string name_of(RemoteFd fd, std::span<const Pid> tasks) {
  if (tasks.size() < 2) return fmt::format("descriptor {}", fd.value);
  const auto table = static_cast<std::size_t>(fd.table);
  return fmt::format("descriptor {} of task {}", fd.value, table < tasks.size() ? tasks[table].value : 0);
}

namespace {
bool has_file(const OpenFile& file) {
  return std::holds_alternative<RegularFile>(file.object) || std::holds_alternative<DeviceFile>(file.object);
}
}  // namespace

bool may_be_held(const OpenFile& file) {
  const bool known = has_file(file) || std::holds_alternative<MessageQueue>(file.object);
  return known && !file.watched && std::ranges::none_of(file.locks, sticks_to_description);
}
bool is_opened_anew(const OpenFile& file) {
  if (std::holds_alternative<NamedPipe>(file.object)) return true;
  return has_file(file) && !file.watched && std::ranges::any_of(file.locks, sticks_to_description);
}

std::string describe(const OpenFile& file) {
  Words named = words_of(file.object);
  return named.phrase.empty() ? named.kind : named.phrase;
}

}  // namespace relive::model
