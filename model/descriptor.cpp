#include "model/descriptor.h"

#include <fmt/format.h>

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

bool may_be_held(const OpenFile& file) {
  if (file.locked || file.watched) return false;
  return std::holds_alternative<RegularFile>(file.object) || std::holds_alternative<DeviceFile>(file.object) ||
         std::holds_alternative<MessageQueue>(file.object);
}

std::string describe(const OpenFile& file) {
  Words named = words_of(file.object);
  return named.phrase.empty() ? named.kind : named.phrase;
}

}  // namespace relive::model
