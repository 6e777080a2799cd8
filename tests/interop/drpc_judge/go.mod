module drpc_judge

go 1.19

require (
	github.com/hashicorp/yamux v0.1.1
	google.golang.org/protobuf v1.33.0
	storj.io/drpc v0.0.33
)

require github.com/zeebo/errs v1.2.2 // indirect
