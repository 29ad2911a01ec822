#include "diff/table.h"

#include <fmt/format.h>

#include <algorithm>

#include "diff/descriptors.h"

namespace relive::diff {

Table::Table(const model::DescriptorTable& table, std::span<const model::Pid> tasks)
    : table_(table), tasks_(tasks), numbers_(table.open_files.size()) {
  for (const model::Descriptor& descriptor : table.descriptors) numbers_[descriptor.open_file].push_back(descriptor.fd);
  for (std::size_t index = 0; index < files(); ++index) {
    if (const auto* const socket = as<model::Socket>(index)) sockets_.emplace(socket->inode, index);
    if (const auto* const pipe = as<model::PipeEnd>(index)) pipes_[pipe->identity].push_back(index);
  }
}

const model::Descriptor* Table::at(model::RemoteFd fd) const {
  const auto found = std::ranges::lower_bound(table_.descriptors, fd, {}, &model::Descriptor::fd);
  return found != table_.descriptors.end() && found->fd == fd ? &*found : nullptr;
}

std::optional<model::RemoteFd> Table::number_in(std::size_t index, int table) const {
  const auto found = std::ranges::find(numbers(index), table, &model::RemoteFd::table);
  return found == numbers(index).end() ? std::nullopt : std::optional(*found);
}

model::RemoteFd Table::number_at(std::size_t index, int table) const {
  return number_in(index, table).value_or(spare_number(index, table));
}

std::optional<std::size_t> Table::socket_with_inode(std::uint64_t inode) const {
  const auto found = sockets_.find(inode);
  return found == sockets_.end() ? std::nullopt : std::optional(found->second);
}

std::span<const std::size_t> Table::ends_of(model::FileIdentity pipe) const {
  const auto found = pipes_.find(pipe);
  if (found == pipes_.end()) return {};
  return found->second;
}

std::string Table::name(std::size_t index) const {
  return fmt::format("{} ({})", model::name_of(numbers(index).front(), tasks_), model::describe(file(index)));
}

}  // namespace relive::diff
