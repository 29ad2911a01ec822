#include "diff/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace relive::diff {

Table::Table(const model::DescriptorTable& table) : table_(table), numbers_(table.open_files.size()) {
  for (const model::Descriptor& descriptor : table.descriptors) numbers_[descriptor.open_file].push_back(descriptor.fd);
}

const model::Descriptor* Table::at(model::RemoteFd fd) const {
  const auto found = std::ranges::lower_bound(table_.descriptors, fd, {}, &model::Descriptor::fd);
  return found != table_.descriptors.end() && found->fd == fd ? &*found : nullptr;
}

std::optional<std::size_t> Table::socket_with_inode(std::uint64_t inode) const {
  for (std::size_t index = 0; inode != 0 && index < files(); ++index) {
    if (const auto* const socket = as<model::Socket>(index); socket != nullptr && socket->inode == inode) return index;
  }
  return std::nullopt;
}

std::string Table::name(std::size_t index) const {
  return fmt::format("descriptor {} ({})", numbers(index).front().value, model::describe(file(index)));
}

}  // namespace relive::diff
