// Lowers Dockerfiles with BuildKit's own frontend: one JSON case a line on standard input, one JSON answer a line on
// standard output. Built inside a checkout of BuildKit by test_lower_differential.py. Images are stand-ins, as in conftest.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

type testCase struct {
	Text     string                     `json:"text"`
	Target   string                     `json:"target"`
	Platform string                     `json:"platform"`
	Args     map[string]string          `json:"args"`
	Multi    bool                       `json:"multi"`
	Configs  map[string]json.RawMessage `json:"configs"`
}

type vertex struct {
	Digest string `json:"digest"`
	Op     *pb.Op `json:"op"`
	Name   string `json:"name"`
}

type answer struct {
	Error    string   `json:"error"`
	Image    any      `json:"image"`
	Vertices []vertex `json:"vertices"`
	Warnings [][]any  `json:"warnings"`
	Outline  any      `json:"outline"`
}

type images struct{ configs map[string]json.RawMessage }

func (i images) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	if config, ok := i.configs[ref]; ok {
		return ref, "", config, nil
	}
	platform := opt.ImageOpt.Platform
	config, err := json.Marshal(map[string]any{
		"architecture": platform.Architecture, "os": platform.OS, "variant": platform.Variant,
		"config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest.FromString("layer").String()}},
	})
	return ref, "", config, err
}

func options(c testCase, out *answer) dockerfile2llb.ConvertOpt {
	caps := pb.Caps.CapSet(pb.Caps.All())
	opt := dockerfile2llb.ConvertOpt{
		Config: dockerui.Config{
			BuildArgs: map[string]string{}, Target: c.Target, MultiPlatformRequested: c.Multi,
			BuildPlatforms: []ocispecs.Platform{{OS: "linux", Architecture: "amd64"}},
		},
		MetaResolver: images{c.Configs},
		LLBCaps:      &caps,
		SourceMap:    llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", []byte(c.Text)),
	}
	for name, value := range c.Args {
		opt.BuildArgs[name] = value
	}
	if c.Platform != "" {
		platform := platforms.Normalize(platforms.MustParse(c.Platform))
		opt.TargetPlatform = &platform
	}
	if out != nil {
		opt.Warn = func(rule, _, _, _ string, location []parser.Range) {
			line := 0
			if len(location) > 0 {
				line = location[0].Start.Line
			}
			out.Warnings = append(out.Warnings, []any{rule, line})
		}
	}
	return opt
}

func lower(c testCase) (out answer) {
	ctx := context.Background()
	result, err := dockerfile2llb.Dockerfile2LLB(ctx, []byte(c.Text), options(c, &out))
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Image = result.Image
	definition, err := result.State.Marshal(ctx)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	for _, data := range definition.Def {
		var op pb.Op
		if err := op.Unmarshal(data); err != nil {
			panic(err)
		}
		key := digest.FromBytes(data)
		out.Vertices = append(out.Vertices, vertex{key.String(), &op, definition.Metadata[key].Description["llb.customname"]})
	}
	if outline, err := dockerfile2llb.Dockerfile2Outline(ctx, []byte(c.Text), options(c, nil)); err == nil {
		out.Outline = outline
	}
	return out
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<26)
	encoder := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var c testCase
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			panic(err)
		}
		if err := encoder.Encode(lower(c)); err != nil {
			panic(err)
		}
	}
}
