#include "model/watches.h"

#include <fmt/format.h>

namespace relive::model {

Words words(const InotifySet& set) {
  return {.kind = "inotify instance", .detail = fmt::format("watches {}", set.watches.size()), .phrase = {}};
}
// The kernel gives it no identity.
bool same_object(const InotifySet& /*a*/, const InotifySet& /*b*/) { return false; }

}  // namespace relive::model
