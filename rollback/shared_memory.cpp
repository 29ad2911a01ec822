#include "rollback/shared_memory.h"

#include <cstdint>
#include <map>
#include <utility>

#include "capture/memory.h"
#include "tracking/populated.h"

namespace relive::rollback {

namespace {
using Object = std::pair<std::uint64_t, std::uint64_t>;  // device, inode

bool is_shared(const model::Mapping& mapping) {
  return mapping.has_object() && tracking::care_of(mapping) == tracking::Care::shared;
}
AddressRange part_of(const model::Mapping& mapping) { return {mapping.offset, mapping.offset + mapping.range.size()}; }
}  // namespace

tracking::Ranges put_back_by(std::span<const model::Task> earlier, const model::Memory& memory) {
  std::vector<AddressRange> out;
  if (earlier.empty()) return out;
  std::map<Object, tracking::Ranges> known;
  for (const model::Mapping& mapping : memory.mappings)
    if (is_shared(mapping)) known.try_emplace({mapping.device, mapping.inode});
  if (known.empty()) return out;
  for (const model::Task& task : earlier) {
    for (const model::Mapping& mapping : task.memory.mappings) {
      if (!is_shared(mapping)) continue;
      const auto found = known.find({mapping.device, mapping.inode});
      if (found != known.end()) found->second = tracking::unite(found->second, {part_of(mapping)});
    }
  }
  for (const model::Mapping& mapping : memory.mappings) {
    if (!is_shared(mapping)) continue;
    for (const AddressRange& part : tracking::intersect({part_of(mapping)}, known.at({mapping.device, mapping.inode})))
      out.push_back(
          {mapping.range.begin + (part.begin - mapping.offset), mapping.range.begin + (part.end - mapping.offset)});
  }
  return tracking::normalize(std::move(out));
}

model::Memory own_part(const model::Memory& memory, const tracking::Ranges& ranges) {
  if (ranges.empty()) return memory;
  model::Memory own = memory;
  own.mappings = capture::without(std::move(own.mappings), ranges);
  return own;
}

}  // namespace relive::rollback
