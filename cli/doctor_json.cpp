#include "cli/doctor_json.h"

#include <nlohmann/json.hpp>

namespace relive::cli {

namespace {
using Json = nlohmann::ordered_json;
}  // namespace

std::string doctor_json(const std::vector<tracking::TrackerProof>& trackers, const std::vector<Finding>& findings,
                        std::string_view tracker, bool ready) {
  Json checks = Json::array();
  for (const auto& finding : findings) {
    Json one = {{"name", finding.name}, {"ok", finding.ok}, {"required", finding.required}, {"reason", finding.detail}};
    if (!finding.ok) one["refused"] = finding.refused;
    checks.push_back(std::move(one));
  }
  Json proofs = Json::array();
  for (const auto& proof : trackers)
    proofs.push_back({{"name", tracking::tracker_name(proof.kind)}, {"works", proof.works}, {"reason", proof.reason}});
  const Json object = {{"ready", ready}, {"tracker", tracker}, {"trackers", proofs}, {"checks", checks}};
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace relive::cli
