"""The HTTP endpoint for short clips: the flow's own steps behind Ray Serve.

`clips` processes one clip and says what happens; `fetch` takes a clip in, within limits; `api` is the HTTP surface;
`app` puts them on Ray Serve, as `config.yaml` describes. Modules here write `import ray.serve as ray_serve`: this
package has the name Ray's documentation imports.
"""
