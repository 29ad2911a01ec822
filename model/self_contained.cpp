#include "model/self_contained.h"

#include <fmt/format.h>

namespace relive::model {

Words words(const EventCounter& counter) {
  return {.kind = "eventfd", .detail = fmt::format("count {}", counter.count), .phrase = {}};
}
bool same_object(const EventCounter& a, const EventCounter& b) { return a.id == b.id; }

}  // namespace relive::model
