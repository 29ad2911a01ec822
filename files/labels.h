// Extended attributes, ACLs among them, of anything that has a name.
#pragma once

#include <map>
#include <string>

#include "base/result.h"
#include "files/place.h"

namespace relive::files {

using Labels = std::map<std::string, std::string>;

// Those that this user can see. None where the file system has none.
Result<Labels> read_labels(const Place& place);
// Sets and removes until they are `wanted`. true: something was.
Result<bool> write_labels(const Place& place, const Labels& wanted);

}  // namespace relive::files
