#include "diff/difference.h"

namespace relive::diff {

std::string_view family_name(Family family) {
  switch (family) {
    case Family::thread:
      return "thread";
    case Family::mapping:
      return "mapping";
    case Family::page:
      return "page";
    case Family::descriptor:
      return "descriptor";
    case Family::signal:
      return "signal";
    case Family::timer:
      return "timer";
    case Family::process:
      return "process";
    case Family::file:
      return "file";
  }
  return "?";
}

}  // namespace relive::diff
