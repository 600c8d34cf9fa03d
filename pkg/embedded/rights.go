package embedded

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// refuseRights makes the broker say that it has no authorizer, as Apache Kafka does without
// one: kfake would take rights down and then not look at them.
func refuseRights(cluster *kfake.Cluster) {
	refuse := func(request kmsg.Key, answer func(req kmsg.Request) kmsg.Response) {
		cluster.ControlKey(int16(request), func(req kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			return answer(req), nil, true
		})
	}
	refuse(kmsg.DescribeACLs, func(req kmsg.Request) kmsg.Response {
		res := req.ResponseKind().(*kmsg.DescribeACLsResponse)
		res.ErrorCode = kerr.SecurityDisabled.Code
		return res
	})
	refuse(kmsg.CreateACLs, func(req kmsg.Request) kmsg.Response {
		res := req.ResponseKind().(*kmsg.CreateACLsResponse)
		for range req.(*kmsg.CreateACLsRequest).Creations {
			res.Results = append(res.Results, kmsg.CreateACLsResponseResult{ErrorCode: kerr.SecurityDisabled.Code})
		}
		return res
	})
	refuse(kmsg.DeleteACLs, func(req kmsg.Request) kmsg.Response {
		res := req.ResponseKind().(*kmsg.DeleteACLsResponse)
		for range req.(*kmsg.DeleteACLsRequest).Filters {
			res.Results = append(res.Results, kmsg.DeleteACLsResponseResult{ErrorCode: kerr.SecurityDisabled.Code})
		}
		return res
	})
}
